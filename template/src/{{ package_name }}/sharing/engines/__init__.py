"""What runs the items: a folder for each engine, beside what all of them or some have in common.

`engine` is what callers see of each, `driver` hands the items out, `desk` runs them in a worker.
What is shared, and how, is the patterns' business, and is not decided here.
"""
