"""Faults: single ones, each with a test of its own, and the suite (`python -m tests.faults`), which injects them at
random into whole systems, under a steady load of every kind of work.

Of the suite: `ground` is a system that runs, `load` calls and `workload` are the tasks, `history` and `observe` write
down what was seen, `catalogue` has the faults, `run` injects them, `checker` judges, and `report` makes the table.
"""
