"""Plain tasks: every call is a row until its result is stored, and its message can be sent as often as needed.

A call is written with its `TaskResult` in the caller's transaction (`enqueue`), and its message is sent after the
commit (`outbox`). A worker claims the call in the statement that makes its state STARTED (`sql`). The sweeper sends
what was not sent or got lost (`sweep`), and gives back what a worker had claimed that died (`crash_recovery`).

What connects this with Celery is in `handbell.celery`.
"""
