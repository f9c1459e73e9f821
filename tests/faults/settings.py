"""The project's settings, with the work that goes on under faults, and a view that calls some of it."""

from project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.faults.urls"
CELERY_IMPORTS = [
    f"tests.faults.{name}" for name in ("workload", "poisonous", "rubbish", "hooks", "deaths", "disabled")
]
