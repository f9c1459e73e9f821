"""Isolated work: each launch has a process of its own, starts at most once, and is dead at its deadline.

Declare with `isolated_task`; call with `launch`, `launch_many`, `delay` or `apply_async`.

How it goes: a call is a row (`enqueue`) and a doorbell (`doorbell`). A supervisor (`supervisor`, a Celery task) claims
rows and writes what came of them (`ledger`); it knows nothing of processes. A forker (`forker`, a small warm process
without a database connection) forks a process per launch (`child`), and ends it with everything it has started
(`processes`); it knows nothing of rows. They talk over a socket, so whoever dies, the other one notices at once.
"""

from tasks_app.isolated.declare import IsolatedTask, isolated_task
from tasks_app.isolated.supervisor import supervise

__all__ = ["IsolatedTask", "isolated_task", "supervise"]
