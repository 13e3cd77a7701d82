"""The engine of ray: actors on a cluster, one a worker."""
