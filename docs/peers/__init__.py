"""Ours beside what a user would pick instead: `nox -s peers` makes docs/performance.md.

A file a field: each lists comparisons, the ways to do one piece of work, and the targets that
ours has to reach. The ways of a comparison are measured in turn by the harness of a generated
project with all patterns, which the session renders.
"""
