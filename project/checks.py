"""System checks: whatever is wrong with the environment is reported before anything starts."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Error, register, run_checks
from django.core.checks.messages import ERROR
from django.core.exceptions import ImproperlyConfigured


@register()
def environment_is_readable(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[Error]:
    """One error per environment variable that cannot be used, with the variable's name and the fix."""
    return [Error(problem.sentence, hint=problem.fix, id="project.E001") for problem in settings.ENV.problems]


def refuse_wrong_settings() -> None:
    """For web servers, which run no checks of Django's.

    Raises:
        ImproperlyConfigured: a setting cannot be used; the message names it and the fix.
    """
    if found := [message for message in run_checks() if message.level >= ERROR and not message.is_silenced()]:
        raise ImproperlyConfigured(" ".join(f"{message.msg} {message.hint or ''}".strip() for message in found))
