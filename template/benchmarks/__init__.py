"""What is shared, measured beside the snippet that people copy: `python -m benchmarks`."""
