"""Procrastinate on PostgreSQL, which keeps states and no results: https://procrastinate.readthedocs.io/

A number and when its task began are those of its job and its first event.
"""

import os
import time

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))
caller = App(connector=SyncPsycopgConnector(conninfo=os.environ["DATABASE_URL"]))
_DONE = """
    SELECT (j.args->>'number')::int AS number, extract(epoch FROM e.at)::float AS began FROM procrastinate_jobs j
    JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'started' WHERE j.id = %(id)s AND j.status = 'succeeded'
"""


@app.task(name="nothing", queue="benchmark")
def nothing(number: int) -> None: ...


is_open = False


def call(number: int) -> int:
    global is_open  # noqa: PLW0603
    if not is_open:
        caller.open()
        if not caller.check_connection():
            caller.schema_manager.apply_schema()
        is_open = True
    return caller.configure_task("nothing", queue="benchmark").defer(number=number)


def result(handle: int) -> list[float]:
    deadline = time.monotonic() + 600
    while not (rows := caller.connector.get_sync_connector().execute_query_all(_DONE, id=handle)):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return [rows[0]["number"], rows[0]["began"]]
