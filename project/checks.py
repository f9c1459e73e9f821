"""System checks: whatever is wrong with the environment is said before anything starts."""

from collections.abc import Sequence
from typing import Any

from celery import current_app
from celery.exceptions import ImproperlyConfigured as RefusedByCelery
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, register
from django.core.exceptions import ImproperlyConfigured

from project.environment import Problem


@register()
def environment_is_readable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[Error]:
    """One error per environment variable that cannot be used, with the variable's name and the mend."""
    return [Error(problem.sentence, hint=problem.mend, id=f"project.{problem.name}") for problem in problems()]


def refuse_wrong_settings() -> None:
    """For web servers, which run no checks of Django's.

    Raises:
        ImproperlyConfigured: an environment variable cannot be used; the message names it and the mend.
    """
    if found := problems():
        raise ImproperlyConfigured(" ".join(f"{problem.sentence} {problem.mend}" for problem in found))


def problems() -> list[Problem]:
    """What the settings found, and a result backend that Celery cannot load: it needs the settings to try."""
    found: list[Problem] = [*settings.ENV.problems]
    try:
        current_app.backend  # noqa: B018  (it is loaded now)
    except Exception as error:  # noqa: BLE001  (whatever a library raises over an address)
        said = f" ({str(error).rstrip('.')})" if isinstance(error, RefusedByCelery) else ""  # no address, no password
        sentence = f"CELERY_RESULT_BACKEND is not a result backend that Celery can load{said}."
        mend = "Set it to redis://host:6379/1 or cache+memcached://host:11211/, or unset it to use the database."
        found.append(Problem("CELERY_RESULT_BACKEND", sentence, mend))
    return found
