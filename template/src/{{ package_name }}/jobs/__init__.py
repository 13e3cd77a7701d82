"""The jobs of this project: each module here that has a `main` is a command.

A parameter of `main` without a default becomes an argument, one with a default an option; the
first line of the module's docstring is the command's help. These are starters, to be replaced.
"""
