"""The engine of dask.distributed: tasks on the threads of a cluster's workers."""
