"""What runs the items: a folder for each engine, beside what all of them or some have in common.

`engine` is what callers see of each. `driver`, `pump` and `scheduler` are the same for all: they
have items read, decide which worker gets them, and pass values on. What an engine has of its own
is a `Crew`, which reaches the workers; `remote` has what the crews of engines without shared
memory are made of. In a worker, `desk` runs the items. What is shared, and how, is the patterns'
business, and is not decided here.
"""
