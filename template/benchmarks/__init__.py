"""Single calls, timed by pytest-benchmark: a file a pattern, its ways in one group.

All workers at once is what the command `bench` of the project measures.
"""
