"""What the operating system has: processes, shared memory, mutexes, services, limits, owners.

`primitives` says what an engine lends of it to patterns. Nothing here knows what a pattern or an
engine is; of all else in `sharing` only `errors` is imported.
"""
