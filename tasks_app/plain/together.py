"""Several calls per claim, and several results per commit, for quick tasks that allow it: `@shared_task(claims=100)`.

One doorbell wakes a process, which claims up to so many calls at once, rings for another process if there may be more,
and runs them one after the other. If it dies of one of them, each runs again alone, with a message of its own.
"""

import os
import time
from datetime import timedelta
from typing import Any

from celery import Task, current_app, shared_task
from celery.app.trace import trace_task
from django.db import connection, transaction
from django.utils import timezone

from tasks_app import bell
from tasks_app.models import Call, CallBell
from tasks_app.plain.gathering import gathering
from tasks_app.plain.ledger import AT_ONCE, FINAL, RESULTS, RUN_TOGETHER, Process, adapted
from tasks_app.plain.message import Message

TURN_SECONDS = 1.0
PATIENCE = timedelta(seconds=5)  # for a doorbell to be answered, before it is rung again
OVERDUE = timedelta(seconds=1)
_known: set[str] = set()  # tasks that have a row

_TAKE = """
    UPDATE tasks_app_call SET worker = %s {at_once}
    WHERE id IN (SELECT id FROM tasks_app_call WHERE together = %s AND worker = ''
                 ORDER BY id LIMIT %s {lock})
    RETURNING id, task_id, message
"""
_START = f"UPDATE {RESULTS} SET status = 'STARTED', worker = %s, date_started = %s, date_done = %s"


def may_be_together(task: Any, message: Message) -> bool:
    """Whether a call can be claimed with others: it has no time, limit or rate of its own."""
    if getattr(task, "claims", 1) < 2 or task.rate_limit or task.time_limit or task.soft_time_limit:
        return False
    headers = message.headers
    return not (headers.get("eta") or headers.get("expires") or headers.get("retries") or any(headers["timelimit"]))


def ring(task: str, queue: str) -> None:
    """Wake a process, unless one has been rung for and has not looked yet."""
    now = timezone.now()
    quiet = CallBell.objects.filter(pk=task, rung=False) | CallBell.objects.filter(pk=task, rung_at__lt=now - PATIENCE)
    rung = quiet.update(rung=True, rung_at=now)
    if not rung and task not in _known:
        rung = CallBell.objects.get_or_create(pk=task, defaults={"rung": True, "rung_at": now})[1]
        _known.add(task)
    if rung:
        bell.send(RUN_TOGETHER, [task], queue, f"The doorbell for {task}")


def ring_for_waiting() -> None:
    """The sweeper's part: a doorbell was lost, or whoever was to ring has died."""
    for known in CallBell.objects.all():
        waiting = Call.objects.filter(together=known.pk, worker="").order_by("id").first()
        if waiting is not None and waiting.enqueued_at < timezone.now() - OVERDUE:
            ring(known.pk, waiting.queue)


@shared_task(name=RUN_TOGETHER, ignore_result=True, bind=True)
def run_together(self: Task[..., Any], name: str) -> None:
    """Answer the doorbell: run what waits, for about a second at a time."""
    CallBell.objects.filter(pk=name).update(rung=False)
    task: Any = current_app.tasks.get(name)
    deadline, hostname = time.monotonic() + TURN_SECONDS, str(self.request.hostname)
    while task is not None and (messages := claim(name, hostname, task.claims)):
        if len(messages) == task.claims:
            ring(name, messages[0].queue)
        with gathering():
            for message in messages:
                run(task, message, hostname)
        if time.monotonic() > deadline:
            ring(name, messages[0].queue)
            return


def claim(name: str, hostname: str, most: int) -> list[Message]:
    """Make up to so many calls ours, in their order, and say so in their states."""
    postgres, now = connection.vendor == "postgresql", adapted(timezone.now())
    take = _TAKE.format(at_once=AT_ONCE if postgres else "", lock="FOR UPDATE SKIP LOCKED" if postgres else "")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(take, (Process.child(os.getpid()), name, most))
        rows = sorted(cursor.fetchall())
        ids = [task_id for _, task_id, _ in rows]
        some = "ANY(%s)" if postgres else f"({', '.join(['%s'] * len(ids))})"
        which = f"WHERE task_id {'=' if postgres else 'IN'} {some} AND status NOT IN {FINAL} RETURNING task_id"
        cursor.execute(f"{_START} {which}", (hostname, now, now, *([ids] if postgres else ids)))
        begun = {task_id for (task_id,) in cursor.fetchall()}
    if ended := set(ids) - begun:
        Call.objects.filter(task_id__in=ended).delete()  # revoked meanwhile
    return [Message.from_json(text) for _, task_id, text in rows if task_id in begun]


def run(task: Any, message: Message, hostname: str) -> None:
    """As a worker's process runs a task whose message it has received."""
    request = {**message.request(), "hostname": hostname, "is_eager": False, "claimed": "already"}
    trace_task(task, request["id"], request["args"], request["kwargs"], request, app=current_app)
