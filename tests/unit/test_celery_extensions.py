"""Handbell's extensions of Celery: its defaults yield to the project's settings, and each file is in the table."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import billiard
import celery
import django_celery_beat
import django_celery_results
import kombu
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import current_app
from celery.app.trace import build_tracer
from celery.fixups.django import DjangoWorkerFixup  # type: ignore[attr-defined]
from celery.result import AsyncResult
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_results.models import TaskResult

import handbell.celery
from handbell import Celery
from handbell.celery.backend import DatabaseBackend
from handbell.celery.configuration import CONNECTION_REUSES, handbell_defaults
from handbell.models import Call
from handbell.plain.message import Message
from tests import plain

FOLDER = Path(handbell.celery.__file__).parent


@pytest.fixture
def configured() -> Iterator[Any]:
    """Makes apps with these Django settings, and nothing else."""
    apps = []

    def make(**settings: Any) -> Celery:
        app = Celery("elsewhere", set_as_current=False)
        app.config_from_object(type("Settings", (), settings), namespace="CELERY")
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_a_project_that_configures_nothing_gets_our_defaults(configured: Any) -> None:
    conf = configured().conf

    for name, value in handbell_defaults(conf).items():
        assert conf[name] == value, name
    assert conf.worker_prefetch_multiplier == 1
    assert conf.timezone is None  # of what we say nothing, Celery's defaults are there


def test_what_a_project_sets_wins(configured: Any) -> None:
    app = configured(
        CELERY_WORKER_PREFETCH_MULTIPLIER=7,
        CELERY_RESULT_BACKEND="cache+memory://",
        CELERY_BROKER_URL="amqp://there",
        CELERY_RESULT_EXPIRES=60,
        CELERY_DB_REUSE_MAX=0,
    )
    assert (app.conf.worker_prefetch_multiplier, app.conf.result_expires) == (7, 60)
    assert app.conf.broker_transport_options["confirm_publish"] is True
    assert app.backend.__class__.__module__ == "celery.backends.cache"
    assert app.conf.get("CELERY_DB_REUSE_MAX") == 0

    app.conf.update(worker_prefetch_multiplier=8)
    assert app.conf.worker_prefetch_multiplier == 8


@pytest.mark.parametrize("urls", ["amqp://one;amqp://other", ["amqp://one", "amqp://other"]])
def test_several_brokers_may_be_named_as_celery_documents_them(configured: Any, urls: Any) -> None:
    assert configured(CELERY_BROKER_URL=urls).conf.broker_transport_options["confirm_publish"] is True


def test_what_is_set_before_the_configuration_is_read_wins_too() -> None:
    app = Celery("elsewhere", broker="amqp://there", set_as_current=False)
    app.conf.worker_prefetch_multiplier = 9
    app.conf.task_default_queue = "mine"

    assert (app.conf.broker_url, app.conf.task_default_queue) == ("amqp://there", "mine")
    assert (app.conf.worker_prefetch_multiplier, app.conf.beat_max_loop_interval) == (9, 2)


def test_a_connection_that_only_sends_does_not_wait_for_ever(configured: Any) -> None:
    """RabbitMQ only, where a connection that receives may wait for as long as it takes."""
    app = configured(CELERY_BROKER_URL="amqp://there")
    sends, receives = app.producer_pool.connections.connection, app.connection_for_read()

    assert sends.transport_options["read_timeout"] == 2
    assert "read_timeout" not in receives.transport_options
    assert sends.transport_options["confirm_publish"] is receives.transport_options["confirm_publish"] is True


def test_the_django_fixup_keeps_connections() -> None:
    assert DjangoWorkerFixup(current_app).db_reuse_max == CONNECTION_REUSES


def test_the_librarys_name_for_its_backend_gives_ours(configured: Any) -> None:
    app = configured(CELERY_RESULT_BACKEND="django-db")

    assert type(app.backend) is DatabaseBackend
    assert configured(CELERY_RESULT_BACKEND="django-cache", CELERY_CACHE_BACKEND="default").backend is not None


@pytest.mark.django_db
@pytest.mark.parametrize("task", [plain.add, plain.quick])
def test_task_track_started_costs_no_statement(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for track_started in (False, True):
        monkeypatch.setattr(current_app.tasks[task.name], "track_started", track_started)
        result = task.delay(1, 2)
        with CaptureQueriesContext(connection) as queries:
            run_as_a_worker(task, result)
        assert (result.state, result.get()) == ("SUCCESS", 3)
        assert TaskResult.objects.filter(task_id=result.id, date_started__isnull=False).exists()
        counts.append(len(queries))
    assert counts[0] == counts[1] > 0


@pytest.mark.django_db
def test_a_task_may_call_its_state_started_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    result = plain.says_started.delay()
    run_as_a_worker(plain.says_started, result)

    assert result.get() == ["STARTED", {"done": 0.5}]


@pytest.mark.django_db
def test_after_a_soft_time_limit_the_failure_is_stored_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one may have been interrupted in the middle of BEGIN."""
    result: Any = plain.interrupted.delay()
    seen = []
    monkeypatch.setattr("handbell.celery.task.close_connections", lambda but: seen.append(result.state))

    run_as_a_worker(plain.interrupted, result)

    assert seen == ["STARTED"]
    with pytest.raises(SoftTimeLimitExceeded):
        result.get()


def run_as_a_worker(task: Any, result: AsyncResult[Any]) -> None:
    message = Message.from_json(Call.objects.get(task_id=result.id).message)
    request = {**message.request(), "hostname": "here", "is_eager": False}
    tracer = build_tracer(task.name, task, app=current_app)
    tracer(request["id"], request["args"], request["kwargs"], request)


# --- The table --------------------------------------------------------------------------------------------------------


def test_every_file_is_in_the_table() -> None:
    listed = re.findall(r"^(\w+\.py) ", str(handbell.celery.__doc__), re.MULTILINE)

    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize(
    "package", [celery, kombu, billiard, django_celery_results, django_celery_beat], ids=lambda it: it.__name__
)
def test_the_table_was_checked_with_the_version_that_is_installed(package: Any) -> None:
    """When this fails, go through the table with the new version's source, then correct the version there."""
    version = ".".join(package.__version__.split(".")[:2])

    assert f"{package.__name__.replace('_', '-')} {version}" in re.sub(r"\s+", " ", str(handbell.celery.__doc__))
