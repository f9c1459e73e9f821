"""Loaded before anything else: the tests in this process use a folder of their own, and the database of their column.

`TEST_DATABASE=postgres` runs them on PostgreSQL, from its wheel; otherwise they run on SQLite.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp(prefix="tests-"))
atexit.register(shutil.rmtree, folder, ignore_errors=True)

for variable in ("DATABASE_URL", "CELERY_BROKER_URL", "SECRET_KEY", "DEBUG", "HTTPS", "ALLOWED_HOSTS"):
    os.environ.pop(variable, None)
for variable in [name for name in os.environ if name.startswith("HANDBELL_")]:
    del os.environ[variable]
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests start hundreds of processes, which would all compile everything
os.environ["HANDBELL_DATA_DIR"] = str(folder / "var")
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / "hypothesis")

if os.environ.get("TEST_DATABASE") == "postgres":
    from tests.servers import HASTE, Postgres

    os.environ["DATABASE_URL"] = Postgres(folder / "postgres", *HASTE).url()
    os.environ["SECRET_KEY"] = "only for tests " * 4
