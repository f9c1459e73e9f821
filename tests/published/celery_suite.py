"""Runs Celery's own integration tests, as published, against a worker of ours, or of Celery's to compare with:

    python -m tests.published.celery_suite handbell|stock|redis sqlite|postgres [options of pytest]

`sqlite` is SQLite with Valkey, `postgres` PostgreSQL with RabbitMQ.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.published.source import published_tests
from tests.servers import HASTE, Postgres, RabbitMQ, Valkey
from tests.system import ROOT

#: Celery's files of tests, but for those that test other result backends and nothing of a worker.
OF_OTHER_BACKENDS = ("test_backend.py", "test_database_backend.py", "test_cache_backend.py")
SUITE = ["t/integration", *(f"--ignore=t/integration/{name}" for name in OF_OTHER_BACKENDS)]
#: The options that choose parts of them: those of canvases take most of the time.
PARTS = {
    "postgres-chords": ["-k", "test_canvas and test_chord"],
    "postgres-canvas": ["-k", "test_canvas and not test_chord"],
    "postgres-others": ["-k", "not test_canvas"],
    "sqlite-tasks": ["-k", "test_tasks or test_group_chains"],
}


def suite_environment(whose: str, database: str, broker: str, valkey: Valkey, folder: Path) -> dict[str, str]:
    """What the plugin, the app and Celery's own tests read from the environment."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "PYTEST_ADDOPTS"}}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}",  # some of them run `celery`
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "tests.published.celery_settings",
        "PUBLISHED_APP": whose,
        "PUBLISHED_DATABASE": database,
        "PUBLISHED_FOLDER": str(folder),
        "PUBLISHED_REDIS": valkey.url(1),
        "TEST_BROKER": broker,
        "TEST_BACKEND": valkey.url(1) if whose == "redis" else "django-db",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(valkey.port),
    }


def migrate(environment: dict[str, str], folder: Path) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--verbosity=0", "--skip-checks"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def suite_command(unpacked: Path, options: Sequence[str]) -> list[str]:
    """What runs the tests in `unpacked`, with further options of pytest."""
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={unpacked}"]
    command += ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:django", "-p", "tests.published.celery_plugin"]
    return [*command, "-o", "python_classes=test_*", "--timeout=300", "-rfE", "-W", "ignore", *SUITE, *options]


def main(whose: str, column: str, options: Sequence[str]) -> int:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="published")))
        (folder / "var").mkdir()
        stack.callback((valkey := Valkey()).stop)
        database, broker = f"sqlite:///{folder}/db.sqlite3", valkey.url()
        if column == "postgres":
            folder.chmod(0o755)  # the server runs as another user
            stack.callback((postgres := Postgres(folder / "postgres", *HASTE)).stop)
            stack.callback((rabbitmq := RabbitMQ(folder / "rabbitmq")).stop)
            database, broker = postgres.create_database("published"), rabbitmq.url()
        unpacked = published_tests("celery", folder)
        environment = suite_environment(whose, database, broker, valkey, folder / "var")
        migrate(environment, unpacked)
        done = subprocess.run(suite_command(unpacked, options), cwd=unpacked, env=environment, check=False)
        Path(f"/tmp/worker-{whose}-{column}.log").write_bytes((folder / "var" / "worker.log").read_bytes())
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
