"""What Handbell configures of Celery. Whatever the project itself sets (`CELERY_…`, `app.conf.update`) wins."""

from collections.abc import Sequence
from typing import Any

from celery.app import defaults
from celery.app.utils import Settings
from celery.utils.collections import DictAttribute
from django.conf import settings
from django.core.signals import setting_changed
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
#: Without a prefix, and as they were called before Celery 4.
KNOWN_NAMES = frozenset(defaults.SETTING_KEYS | vars(defaults)["_OLD_SETTING_KEYS"])
_MISSING = object()
#: How many tasks a process runs on one database connection: practically no limit.
CONNECTION_REUSES = 1_000_000


def install_redis_transport() -> None:
    """Have kombu use our transport for Redis and Valkey."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "handbell.celery.transport:PriorityTransport"


class Configuration(Settings):
    """Celery's configuration, which is asked for a setting a dozen times in each call: it remembers the names that a
    setting may have, and reads a copy of Django's settings, for one that is missing costs Django an exception.
    """

    @classmethod
    def take_over(cls, conf: Any) -> None:
        """Make one of an app's configuration, in its place: others refer to it."""
        object.__setattr__(conf, "__class__", cls)  # its own way makes a setting of it
        copy = DjangoSettings(conf.prefix)
        conf.__dict__.update(
            names={}, **{name: [_instead(it, copy) for it in getattr(conf, name)] for name in ("maps", "defaults")}
        )

    def __getitem__(self, key: str) -> Any:
        if key in KNOWN_NAMES:
            names = self.__dict__["names"].get(key)
            if names is None:
                names = self.__dict__["names"][key] = self._to_keys(key)
            for mapping in self.__dict__["maps"]:
                for name in names:
                    value = mapping.get(name, _MISSING)
                    if value is not _MISSING:
                        return value
        return super().__getitem__(key)


def _instead(mapping: Any, copy: "DjangoSettings") -> Any:
    return copy if getattr(mapping, "obj", None) is settings else mapping


class DjangoSettings(dict[str, Any]):
    """A copy of those of Django's settings that are Celery's, made again when a test changes one."""

    def __init__(self, prefix: str | None) -> None:
        super().__init__()
        self._prefix = prefix or "CELERY_"
        self._copy()
        setting_changed.connect(self._copy)

    def _copy(self, **_: Any) -> None:
        self.clear()
        self.update({name: getattr(settings, name) for name in dir(settings) if self._is_celerys(name)})

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (not self._is_celerys(str(name)) and hasattr(settings, str(name)))

    def __missing__(self, name: str) -> Any:
        """Of Django's other settings, the value itself: an app may read them, too."""
        if self._is_celerys(name):
            raise KeyError(name)
        return DictAttribute(settings)[name]

    def _is_celerys(self, name: str) -> bool:
        return name.startswith(self._prefix) or name in KNOWN_NAMES


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
