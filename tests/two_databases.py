"""The project's settings, with a second database, for the tests of projects that have several."""

from project.settings import *  # noqa: F403
from project.settings import DATABASES, HANDBELL_DATA_DIR

DATABASES["default"]["CONN_MAX_AGE"] = 1
DATABASES["other"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": HANDBELL_DATA_DIR / "other.sqlite3"}
