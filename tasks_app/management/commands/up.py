"""`manage.py up`: the whole system in one terminal."""

import argparse
import asyncio
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections
from kombu.exceptions import OperationalError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks_app.management import first_start, processes
from tasks_app.management.processes import Process
from tasks_app.management.running import Running, UpLock, running_system
from tasks_app.management.supervisor import Supervisor

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


class Command(BaseCommand):
    help = "Run everything: the broker, one worker per queue, beat, Flower and the web server. Ctrl-C stops it all."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="where the web server listens (default 127.0.0.1)")
        parser.add_argument("--port", type=int, default=8000, help="its port (default 8000; 0: any free one)")
        parser.add_argument(
            "--flower-port", type=int, default=5555, help="Flower's port (default 5555; 0: any free one)"
        )
        parser.add_argument(
            "--workers",
            default="",
            metavar="NAMES",
            help="workers by these names, as in w1,w2, share the parallel queues, instead of one worker per queue",
        )
        for part in ("web", "workers", "beat", "flower"):
            parser.add_argument(f"--no-{part}", action="store_true", help=f"leave {part} out")
        parser.add_argument("--no-admin", action="store_true", help="do not create the first admin account")

    def handle(self, *args: Any, **options: Any) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        lock = UpLock()
        if not lock.take():
            other = running_system()
            where = f" at {other.web}" if other and other.web else ""
            raise CommandError(
                f"The system is already running{where} (process {other.pid if other else 'unknown'}). "
                "Stop it with Ctrl-C there, or set VAR_DIR to another folder to run a second one."
            )
        try:
            self._start(lock, options)
        finally:
            lock.release()

    def _start(self, lock: UpLock, options: dict[str, Any]) -> None:
        names = _names(options["workers"])
        running = Running(pid=os.getpid())
        if not options["no_web"]:
            options["port"] = _free_port(options["host"], options["port"], "--port")
            running.web = f"http://{options['host']}:{options['port']}"
        if not options["no_flower"]:
            options["flower_port"] = _free_port("127.0.0.1", options["flower_port"], "--flower-port")
            running.flower = f"http://127.0.0.1:{options['flower_port']}"
        password = _prepare_database(create_admin=not options["no_admin"])
        parts = _parts(options, names)
        running.workers = sum(part.is_worker for part in parts)
        lock.write(running)
        if running.web and "FETCH_ALLOWED_HOSTS" not in os.environ:
            os.environ["FETCH_ALLOWED_HOSTS"] = f"{options['host']}:{options['port']}"
        self._introduce(parts, running, password)
        asyncio.run(self._run(parts, lock, running))
        self.console.print("Everything has stopped.")

    async def _run(self, parts: Sequence[Process], lock: UpLock, running: Running) -> None:
        colours = {part.name: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
        width = max(len(name) for name in colours)

        def say(name: str, line: str) -> None:
            self.console.print(Text(f"{name:<{width}} ", style=colours.get(name, "bold")) + Text.from_ansi(line))

        supervisor = Supervisor(parts, say, settings.BASE_DIR)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, supervisor.stop)
        readiness = asyncio.create_task(self._say_when_ready(lock, running, say))
        await supervisor.run()
        readiness.cancel()

    async def _say_when_ready(self, lock: UpLock, running: Running, say: Any) -> None:
        while not await asyncio.to_thread(_everything_answers, running):
            await asyncio.sleep(0.2)
        running.ready = True
        lock.write(running)
        say("up", f"ready: {running.workers} workers answer" + (f", pages at {running.web}" if running.web else ""))

    def _introduce(self, parts: Sequence[Process], running: Running, password: str | None) -> None:
        table = Table(title="What runs here", title_justify="left", title_style="bold", box=None, pad_edge=False)
        for heading in ("process", "what it is"):
            table.add_column(heading, header_style="dim", overflow="fold")
        for part in parts:
            table.add_row(part.name, part.purpose)
        self.console.print(table)
        self.console.print(f"database  {_without_password(connections['default'].settings_dict)}")
        self.console.print(f"broker    {current_app.connection().as_uri()}")
        if running.web:
            self.console.print(f"pages     {running.web}/   admin {running.web}/admin/")
        if running.flower:
            where = "FLOWER_BASIC_AUTH" if settings.FLOWER_BASIC_AUTH else settings.FLOWER_PASSWORD_FILE
            self.console.print(f"flower    {running.flower}/   user admin, password in {where}")
        if password:
            self.console.print(f"\nSign in as [bold]admin[/] with password [bold]{password}[/] (shown this once).")
        self.console.print("\nCtrl-C stops everything.\n")


def _names(text: str) -> list[str]:
    names = [name.strip().removesuffix("@") for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not name.replace("-", "").replace("_", "").isalnum()]
    if wrong or len(set(names)) != len(names):
        raise CommandError(f"--workers {text}: give different names of letters and digits, as in --workers w1,w2.")
    return names


def _parts(options: dict[str, Any], names: Sequence[str]) -> list[Process]:
    parts: list[Process] = []
    if settings.EMBEDDED_BROKER_USED:
        settings.EMBEDDED_BROKER.hold()
        parts.append(processes.broker())
    else:
        _require_broker()
    if not options["no_workers"]:
        parts += processes.workers(names)
    if not options["no_beat"]:
        parts.append(processes.beat())
    if not options["no_flower"]:
        parts.append(processes.flower(options["flower_port"], first_start.flower_credentials()))
    if not options["no_web"]:
        parts.append(processes.web(options["host"], options["port"]))
    return parts


def _require_broker() -> None:
    try:
        with current_app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=3)
    except (OperationalError, OSError) as error:
        raise CommandError(
            f"The broker at {current_app.connection().as_uri()} does not answer ({error}). "
            "Start it, or correct CELERY_BROKER_URL."
        ) from error


def _prepare_database(*, create_admin: bool) -> str | None:
    """Bring the database up to date; the password of the admin account if one was created."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
        first_start.ensure_entries()
        return first_start.ensure_admin() if create_admin else None
    except DatabaseError as error:
        raise CommandError(
            f"The database cannot be used ({str(error).strip()}). Start it, or correct DATABASE_URL."
        ) from error
    finally:
        connections.close_all()


def _free_port(host: str, port: int, option: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise CommandError(
                f"Port {port} on {host} cannot be used ({error}). Choose another with {option}."
            ) from error
        return int(probe.getsockname()[1])


def _everything_answers(running: Running) -> bool:
    try:
        if running.web:
            with suppress(urllib.error.HTTPError):  # an answer, too: this address may not be in ALLOWED_HOSTS
                urllib.request.urlopen(f"{running.web}/healthz", timeout=2).close()  # noqa: S310  (our own)
        if running.workers:
            return len(current_app.control.ping(timeout=0.7) or []) >= running.workers
    except (OSError, urllib.error.URLError, OperationalError):
        return False
    return True


def _without_password(database: dict[str, Any]) -> str:
    if database["ENGINE"].endswith("sqlite3"):
        return f"SQLite at {database['NAME']}"
    return f"PostgreSQL {database['NAME']} at {database['HOST'] or 'a local socket'}:{database['PORT'] or 5432}"
