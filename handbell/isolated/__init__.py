"""Isolated tasks: each launch has a process of its own, starts at most once, and is dead at its deadline, or after the
grace that its task asks for.

Declare with `isolated_task`; call with `launch`, `launch_many`, `delay` or `apply_async`.

A call is a row (`enqueue`) and a doorbell (`doorbell`). A supervisor (`supervise`, a Celery task) claims rows and
records their outcomes (`sql`); it knows nothing of processes. A fork server (`fork_server`, a small process without a
database connection that `fork_client` starts) forks a process per launch (`child`), and ends it with everything it has
started (`process_tree`, `process_labels`); it knows nothing of rows. They talk over a socket (`protocol`), so whichever
dies, the other one notices at once. If both die, the sweeper ends what they left (`orphans`), and records it (`lost`).
"""
