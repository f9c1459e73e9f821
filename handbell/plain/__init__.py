"""Plain tasks: every call is a row until its result is stored, and its message can be sent as often as needed.

A call is written with its `TaskResult` in the caller's transaction (`enqueue`). After the commit the doorbell of its
queue is rung (`batching`), or its own message is sent (`outbox`). A worker claims it with others, as many as fit into a
moment (`pace`), or alone, in the statement that makes its state STARTED (`sql`). The sweeper sends what was not sent or
got lost (`sweep`), and gives back what a worker had claimed that died (`crash_recovery`).

What connects this with Celery is in `handbell.celery`.
"""
