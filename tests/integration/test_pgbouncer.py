"""Through PgBouncer, which gives each transaction another connection to the database, everything works."""

from collections.abc import Callable
from typing import Any

import pytest
from celery import chord
from django.db import transaction

from handbell import over
from tasks_app.models import Entry
from tasks_app.tasks import increment_value
from tests import jobs, launches, plain
from tests.conftest import COLUMNS
from tests.servers import PgBouncer
from tests.system import System

WORKER = ("-Q", "high,cpu,io,serial,isolated", "-c", "2", "--include=tests.plain,tests.jobs,tests.launches")


def one_of_each() -> list[Any]:
    with transaction.atomic():
        added = [plain.add.delay(number, 1) for number in range(20)]
    total = chord([plain.add.s(number, 1) for number in range(10)], plain.total.s()).delay()
    counted = increment_value.delay_many([("visits",)] * 200)[-1]
    Entry.objects.bulk_create(Entry(title=f"entry {number}") for number in range(300))
    job = over(Entry.objects.filter(title__startswith="entry ")).map(jobs.double).start("cpu")
    launched = launches.nothing.delay(7)
    wait: dict[str, Any] = {"timeout": plain.SECONDS}
    return [
        [result.get(**wait) for result in added],
        total.get(**wait),
        counted.get(**wait),
        len(list(job.wait(plain.SECONDS).results())),
        launched.get(**wait),
    ]


@pytest.mark.rabbitmq
@pytest.mark.pgbouncer
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_one_of_each_kind(column: str, make_system: Callable[[str], System], request: pytest.FixtureRequest) -> None:
    system = make_system(column)
    url = system.environment["DATABASE_URL"]
    folder = system.folder.parent / "pgbouncer"
    folder.mkdir()
    pgbouncer = PgBouncer(folder, request.getfixturevalue("postgres"))
    request.addfinalizer(pgbouncer.stop)
    system.environment["DATABASE_URL"] = pgbouncer.url(url.partition("?")[0].rpartition("/")[2])

    with system.worker(*WORKER):
        assert system.call(one_of_each) == [list(range(1, 21)), 55, 200, 300, 7]
