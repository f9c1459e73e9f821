"""The engine's system checks: what is wrong with a project is said with what to do about it, before anything starts."""

from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import current_app
from celery.backends.base import DisabledBackend
from django.conf import LazySettings
from django.core.checks import CheckMessage
from django.db import connections

from handbell import Celery, checks
from handbell.queues import ISOLATED_QUEUE, SERIAL_QUEUE
from tasks_app.queues import QUEUES

TWICE = (*QUEUES, QUEUES[0])
NO_TABLE = 7


def found() -> list[CheckMessage]:
    return [*checks.settings_are_valid(None), *checks.celery_is_configured(None)]


def ids() -> list[str | None]:
    return [message.id for message in found()]


@pytest.fixture
def celery_conf(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Configures Celery's app for as long as the test takes."""

    def configure(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(current_app.conf, name, value)

    return configure


def test_this_project_has_nothing_wrong() -> None:
    assert found() == []


def test_a_setting_that_cannot_be_used(settings: LazySettings) -> None:
    settings.HANDBELL_LEASE_SECONDS = 0

    (message,) = found()
    assert message.id == "handbell.E001"
    assert message.msg == "HANDBELL_LEASE_SECONDS is 0, which is not a whole number from 3 to 86400."
    assert message.hint == "Set it to a whole number from 3 to 86400."


def test_a_time_limit_that_comes_too_late(settings: LazySettings) -> None:
    settings.HANDBELL_SERIAL_IDLE_SECONDS = 20
    (warning,) = found()
    assert (warning.id, "is not less than HANDBELL_SERIAL_IDLE_SECONDS, 20" in warning.msg) == ("handbell.W004", True)


@pytest.mark.parametrize("path", ["nowhere.QUEUES", "tasks_app.queues.NOTHING", "QUEUES", f"{__name__}.NO_TABLE"])
def test_a_path_that_leads_to_no_table_of_queues(path: str, settings: LazySettings) -> None:
    settings.HANDBELL_QUEUES = path

    (message,) = found()
    assert message.id == "handbell.E002"
    assert message.msg.startswith("HANDBELL_QUEUES names no table of queues: ")
    assert "tasks_app.queues.QUEUES" in str(message.hint)


def test_a_table_of_queues_with_a_fault(settings: LazySettings) -> None:
    settings.HANDBELL_QUEUES = f"{__name__}.TWICE"

    (message,) = found()
    assert message.id == "handbell.E003"
    assert message.msg == f"The table of queues, {__name__}.TWICE: It has the queue serial more than once."


def test_a_concurrency_for_a_queue_that_there_is_not(settings: LazySettings) -> None:
    settings.HANDBELL_CONCURRENCY = "cpu=2,gpu=2"

    (message,) = found()
    assert message.id == "handbell.E003"
    assert "HANDBELL_CONCURRENCY names the queue gpu" in message.msg
    assert message.hint == "The queues are: serial, high, cpu, io, isolated."


def test_a_celery_app_that_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy:
        def _get_current_object(self) -> celery.Celery:
            return celery.Celery("other", set_as_current=False)

    monkeypatch.setattr(checks, "current_app", Proxy())

    (message,) = found()
    assert message.id == "handbell.E004"
    assert "from handbell import Celery" in str(message.hint)


def test_local_times(settings: LazySettings) -> None:
    settings.USE_TZ = False

    assert ids() == ["handbell.E007"]


@pytest.mark.parametrize(
    "url",
    [
        *("redis", "redis:", "nonsense", "http://h", "amqp:/h", "://", "kafka://user:hush@h"),
        *("redis://h:port/0", "redis://h:0/0", "redis://h:99999/0", "redis://h/zero", "amqp://user:hush@h:port//"),
        *("amqp://h//;nonsense", "amqp://h//;", ["amqp://h//", "nonsense"]),
    ],
)
def test_what_is_no_address_of_a_broker(url: Any, celery_conf: Callable[..., None]) -> None:
    celery_conf(broker_url=url)

    (message,) = found()
    assert message.id == "handbell.E008"
    assert message.msg == "CELERY_BROKER_URL is not the address of a broker."
    assert "Set it to amqp://user:password@host:5672/vhost or redis://host:6379/0" in str(message.hint)
    assert "hush" not in str(message)


@pytest.mark.parametrize(
    "url",
    [
        *("amqp://", "amqp://u:p@h:5672/vhost", "amqps://h//", "pyamqp://h//", "amqp://a//;amqp://b//"),
        *("redis://h", "redis://h/", "redis://:p@h:6379/3", "rediss://h:6379/0?ssl_cert_reqs=required"),
        *("redis+socket:///run/valkey.sock", "memory://", "sentinel://h", ["amqp://a//", "amqp://b//"]),
    ],
)
def test_the_address_of_a_broker_is_taken(url: Any, celery_conf: Callable[..., None]) -> None:
    celery_conf(broker_url=url)

    assert found() == []


def test_an_embedded_broker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)

    (message,) = found()
    assert message.id == "handbell.E008"
    assert message.hint == "Set CELERY_BROKER_URL, or pip install 'django-handbell[embedded]'."


def test_the_engines_own_queues_are_in_the_projects_table() -> None:
    assert {SERIAL_QUEUE, ISOLATED_QUEUE} <= set(QUEUES)


def test_a_default_queue_that_no_worker_of_up_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "queue_names", lambda: ["serial", "isolated", "mail"])

    assert ids() == ["handbell.W001"]
    assert "CELERY_TASK_DEFAULT_QUEUE is cpu, which the table of queues does not have" in found()[0].msg


def test_a_pooler_without_the_setting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = {"ENGINE": "django.db.backends.postgresql", "PORT": 6432}
    monkeypatch.setattr(connections, "settings", {"default": behind})
    assert ids() == ["handbell.W006"]
    behind["DISABLE_SERVER_SIDE_CURSORS"] = True
    assert ids() == []


def test_an_older_protocol_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: Any = current_app.conf.changes
    monkeypatch.setitem(changes, "task_protocol", 1)
    (warning,) = found()
    assert (warning.id, "CELERY_TASK_PROTOCOL is 1" in warning.msg) == ("handbell.W005", True)


def test_a_name_that_is_no_setting(settings: LazySettings) -> None:
    settings.HANDBELL_LEASE_SECOND = 20
    settings.HANDBELL_TEAPOT = True

    lease, teapot = found()
    assert (lease.id, lease.msg) == ("handbell.W002", "HANDBELL_LEASE_SECOND is no setting of Handbell.")
    assert lease.hint == "Did you mean HANDBELL_LEASE_SECONDS?"
    assert teapot.hint == "Remove it; `manage.py handbell settings` lists them all."


def test_a_result_backend_that_gives_up_the_guarantees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Celery, "backend", DisabledBackend(app=current_app))

    of_django, message = found()
    assert (of_django.id, message.id) == ("handbell.W007", "handbell.W003")
    assert "Django's tasks have no results" in str(of_django.msg)
    assert "they have Celery's own guarantees" in str(message.msg)
    assert "SILENCED_SYSTEM_CHECKS" in str(message.hint)
