"""What sharing costs, measured beside the snippets that people copy: a pattern is a file.

Each of those has `ways(setting)`, a context in which its ways can be run. `timing` runs them.
"""
