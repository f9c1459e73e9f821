"""What Handbell configures of Celery. Whatever the project itself sets (`CELERY_…`, `app.conf.update`) wins."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from kombu.transport import TRANSPORT_ALIASES

from handbell.common.broker import is_amqp, is_redis
from handbell.common.ledger_task import DATABASE_BACKEND
from handbell.embedded.broker import embedded_broker
from handbell.queues import DEFAULT_PRIORITY, MAX_PRIORITY, default_queue, kombu_queues

PRIORITY_STEPS = list(range(MAX_PRIORITY + 1))
CONNECT_SECONDS = 2
# Longer than a worker waits for a message at a time, so that an idle connection is not taken for a dead one.
SOCKET_TIMEOUT_SECONDS = 3
VISIBILITY_SECONDS = 12 * 3600
CONFIRM_SECONDS = 2
#: How many tasks a process runs on one database connection: practically no limit.
CONNECTION_REUSES = 1_000_000


def install_redis_transport() -> None:
    """Have kombu use our transport for Redis and Valkey."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "handbell.celery.transport:PriorityTransport"


def replace_defaults(conf: Any) -> None:
    """Have our defaults take the place of Celery's own, in the configuration of an app.

    What `Celery.add_defaults` adds comes before the project's own settings (celery/utils/collections.py), and each
    further mapping would make every call slower. The last mapping is Celery's own defaults, copied for this app.
    """
    conf.defaults[-1].update(handbell_defaults(conf))


def handbell_defaults(conf: Any) -> dict[str, Any]:
    """Our defaults; `conf` is the project's configuration."""
    broker_url = conf.broker_url or embedded_broker().url
    return {
        "broker_url": broker_url,
        "broker_transport_options": broker_transport_options(broker_url),
        "broker_connection_timeout": CONNECT_SECONDS,  # a broker that does not answer is given up quickly
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # workers wait for their broker as long as it takes
        "task_publish_retry_policy": {
            "max_retries": 2,
            "interval_start": 0.1,
            "interval_step": 0.2,
            "interval_max": 0.5,
        },
        "task_queues": kombu_queues(),
        "task_default_queue": default_queue(),
        "task_default_priority": DEFAULT_PRIORITY,
        "worker_consumer": "handbell.celery.consumer:RefusingConsumer",
        "worker_prefetch_multiplier": 1,  # a message taken in advance would hold back one of higher priority
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_lost_wait": 1.0,  # seconds for the result of a child that is gone, in case it left one
        "result_backend": DATABASE_BACKEND,
        "result_extended": True,
        "result_expires": None,  # `handbell.delete_finished` deletes them, whenever the project says so
        **beat_defaults(),
        # Celery closes the database connection around every task unless this is set; `handbell.celery.connections`
        # closes those that are broken. https://github.com/celery/celery/blob/main/celery/fixups/django.py
        "CELERY_DB_REUSE_MAX": CONNECTION_REUSES,
    }


def beat_defaults() -> dict[str, Any]:
    """Periodic tasks are rows of django-celery-beat where that is installed; otherwise Celery's own scheduler reads
    `CELERY_BEAT_SCHEDULE`. The app registry may not be ready yet.
    """
    if any(name.partition(".")[0] == "django_celery_beat" for name in settings.INSTALLED_APPS):
        return {
            "beat_scheduler": "handbell.celery.scheduler:DatabaseScheduler",
            "beat_max_loop_interval": 2,  # seconds until an edited schedule takes effect
        }
    return {}


def broker_transport_options(broker_url: str | Sequence[str]) -> dict[str, Any]:
    if is_redis(broker_url):
        return {
            "priority_steps": PRIORITY_STEPS,
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_keepalive": True,
        }
    return {"confirm_publish": True} if is_amqp(broker_url) else {}


def producer_options(broker_url: str | Sequence[str]) -> dict[str, Any]:
    """Further options of connections that only send: without them a broker that is frozen would be waited for, for
    ever, when it is to confirm a message or to declare a queue. For Redis, `socket_timeout` does the same.
    """
    return {"read_timeout": CONFIRM_SECONDS, "write_timeout": CONFIRM_SECONDS} if is_amqp(broker_url) else {}
