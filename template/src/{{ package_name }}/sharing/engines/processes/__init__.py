"""The engine of one machine: worker processes, each with a pipe of its own."""
