"""System checks: whatever is wrong with the environment is said before anything starts."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, register
from django.core.exceptions import ImproperlyConfigured


@register()
def environment_is_readable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[Error]:
    """One error per environment variable that cannot be used, with the variable's name and the mend."""
    return [
        Error(problem.sentence, hint=problem.mend, id=f"project.{problem.name}") for problem in settings.ENV.problems
    ]


def refuse_wrong_settings() -> None:
    """For web servers, which run no checks of Django's.

    Raises:
        ImproperlyConfigured: an environment variable cannot be used; the message names it and the mend.
    """
    if settings.ENV.problems:
        raise ImproperlyConfigured(" ".join(f"{problem.sentence} {problem.mend}" for problem in settings.ENV.problems))
