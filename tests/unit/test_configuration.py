"""Celery's configuration and the texts of arguments: found in a moment, and the same as Celery's own."""

import random
from typing import Any

import pytest
from celery import Celery as PlainCelery
from celery import current_app
from celery.app.defaults import DEFAULTS
from celery.app.utils import Settings
from celery.utils.saferepr import saferepr
from django.test import override_settings

from handbell import Celery
from handbell.celery.amqp import quick_repr
from handbell.celery.configuration import Configuration


def of_django(kind: Any, namespace: str | None) -> Any:
    app = kind("elsewhere", set_as_current=False)
    app.config_from_object("django.conf:settings", namespace=namespace)
    return app.conf


@pytest.mark.parametrize("namespace", ["CELERY", None])
def test_every_setting_is_what_celery_reads(namespace: str | None) -> None:
    with override_settings(CELERY_TASK_TIME_LIMIT=77, CELERYD_PREFETCH_MULTIPLIER=3):
        ours, theirs = of_django(Celery, namespace), of_django(PlainCelery, namespace)
        ours.broker_url, theirs.broker_url  # noqa: B018  (it is read now)
        assert isinstance(ours, Configuration)
        same_as_ours = Settings(ours.changes, ours.defaults, theirs._keys, theirs.prefix)
        for name in DEFAULTS:
            assert ours.get(name) == same_as_ours.get(name), name
        if namespace:
            assert ours.task_time_limit == theirs.task_time_limit == 77


def test_what_a_test_overrides_and_what_the_app_is_told_is_seen_at_once() -> None:
    conf: Any = of_django(Celery, "CELERY")
    assert not conf["task_always_eager"]
    with override_settings(CELERY_TASK_ALWAYS_EAGER=True):
        assert conf["task_always_eager"] is True
    assert not conf.task_always_eager
    conf.update(task_always_eager=True)
    assert conf.task_always_eager is conf["task_always_eager"] is True
    assert not current_app.conf.task_always_eager


def test_a_setting_that_is_none_of_celerys_is_found_and_one_that_is_not_there_is_missed() -> None:
    conf: Any = of_django(Celery, "CELERY")
    assert conf["ROOT_URLCONF"]
    with override_settings(CELERY_MY_OWN=5):
        assert conf.my_own == 5
    with pytest.raises(AttributeError):
        _ = conf.my_own
    with pytest.raises(KeyError):
        conf["nothing_at_all"]


def test_quick_texts_of_arguments_are_celerys() -> None:
    pick = random.Random(7)
    numbers: list[Any] = [0, -1, 10**30, 2**64, 1.5, 1e100, float("nan"), True, None]
    texts = ["", "a", "it's", 'say "x"', "a\\b", "é\n\0", "\t", "\ud800", "\U0001f514", "\xad", "x" * 99, "x" * 101]
    values = [*numbers, *texts, "https://example.com/?a=1&b=%20", "Grüße", "\u200b", "\u3042", [1], {"a": 1}, b"x"]
    quick = 0
    for _ in range(3000):
        args = tuple(pick.choices(values, k=pick.randrange(10)))
        for given in (args, list(args)):
            text = quick_repr(given)
            quick += text is not None
            assert text is None or text == saferepr(given, 1024)
    assert quick > 300
