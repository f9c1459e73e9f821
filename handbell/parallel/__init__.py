"""Parallel work: a job applies tasks to every item of a source, on every core of every machine that has a worker.

`over(source).map(task).start()` starts one: declare.py. Its message is answered in work.py.
"""
