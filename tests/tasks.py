"""Tasks that only tests need; a worker takes them with `--include=tests.tasks`."""

from pathlib import Path

from celery import shared_task
from django.db import connection


@shared_task(queue="serial")
def write_line(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@shared_task(queue="serial")
def backend_pid() -> int:
    """The PostgreSQL server process that this worker process talks to."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@shared_task(queue="serial")
def broken_statement() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nonsense")
