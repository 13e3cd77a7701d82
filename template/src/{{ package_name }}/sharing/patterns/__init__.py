"""What workers share: a file for each pattern, on what `base` says that all of them have.

A pattern uses `machine` and the `base.Host` that an engine lends, and imports no engine: so each
one runs on all of them.
"""
