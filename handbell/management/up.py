"""`manage.py handbell up`: the whole system in one terminal."""

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from celery import current_app
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, connections
from django.urls import NoReverseMatch, reverse
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handbell.common.broker import broker_errors, require_broker
from handbell.common.child_process import die_with_parent, working_directory
from handbell.common.process_id import is_dead
from handbell.conf import conf
from handbell.embedded.broker import embedded_broker
from handbell.errors import BrokerRefuses, BrokerUnavailable
from handbell.management import first_start, process_table
from handbell.management.addresses import broker_address, database_address, uses_embedded_broker
from handbell.management.base import Subcommand
from handbell.management.process_manager import ProcessManager
from handbell.management.process_table import ManagedProcess
from handbell.management.running import RunningSystem, UpLock, running_system
from handbell.models import Owner

#: Tells everything that `up` runs where its web server listens.
WEB_ADDRESS_VARIABLE = "HANDBELL_WEB_ADDRESS"
BROKER_ANSWER_SECONDS = 3
NOT_YET = "not every part answers"
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


class UpCommand(Subcommand):
    help = (
        "Run everything in this terminal: the embedded broker if no other is configured, one worker per queue, beat, "
        "Flower if it is installed, and the web server. Ctrl-C stops it all."
    )

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
        parser.add_argument(
            "--stop-with-parent", action="store_true", help="stop when the process ends that started this (Linux)"
        )

    def handle(self, **options: Any) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        if options["stop_with_parent"]:
            die_with_parent()
        lock = UpLock()
        if not lock.acquire():
            raise CommandError(_already_running(running_system()))
        lock.write(RunningSystem())
        try:
            self._start(lock, options)
        finally:
            lock.release()

    def _start(self, lock: UpLock, options: dict[str, Any]) -> None:
        names = _names(options["workers"])
        running = RunningSystem()
        if not options["no_web"]:
            options["port"] = _free_port(options["host"], options["port"], "--port")
            running.web = f"http://{options['host']}:{options['port']}"
        if not options["no_flower"] and process_table.has_flower():
            options["flower_port"] = _free_port("127.0.0.1", options["flower_port"], "--flower-port")
            running.flower = f"http://127.0.0.1:{options['flower_port']}"
        password = _prepare_database(create_admin=not options["no_admin"])
        parts = _parts(options, names)
        running.workers = sum(part.is_worker for part in parts)
        lock.write(running)
        if running.web:
            os.environ[WEB_ADDRESS_VARIABLE] = f"{options['host']}:{options['port']}"
        self._print_summary(parts, running, password)
        asyncio.run(self._run(parts, lock, running))
        self.console.print("Everything has stopped.")

    async def _run(self, parts: Sequence[ManagedProcess], lock: UpLock, running: RunningSystem) -> None:
        colours = {part.name: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
        width = max(len(name) for name in colours)

        def say(name: str, line: str) -> None:
            self.console.print(Text(f"{name:<{width}} ", style=colours.get(name, "bold")) + Text.from_ansi(line))

        manager = ProcessManager(parts, say, working_directory())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, manager.stop)
        readiness = asyncio.create_task(self._say_when_ready(lock, running, say))
        await manager.run()
        readiness.cancel()

    async def _say_when_ready(self, lock: UpLock, running: RunningSystem, say: Any) -> None:
        said = ""
        while problem := await asyncio.to_thread(_why_not_ready, running):
            if problem not in (said, NOT_YET):
                said = problem
                say("up", f"not ready yet: {problem}")
            await asyncio.sleep(0.2)
        running.ready = True
        lock.write(running)
        say("up", f"ready: {running.workers} workers run" + (f", pages at {running.web}" if running.web else ""))

    def _print_summary(self, parts: Sequence[ManagedProcess], running: RunningSystem, password: str | None) -> None:
        table = Table(title="What runs here", title_justify="left", title_style="bold", box=None, pad_edge=False)
        for heading in ("process", "what it is"):
            table.add_column(heading, header_style="dim", overflow="fold")
        for part in parts:
            table.add_row(part.name, part.purpose)
        self.console.print(table)
        self.console.print(f"database  {database_address()}")
        self.console.print(f"broker    {broker_address()}")
        if running.web:
            self.console.print(f"pages     {running.web}/{_admin_shown(running.web)}")
        if running.flower:
            where = "HANDBELL_FLOWER_BASIC_AUTH" if conf.FLOWER_BASIC_AUTH else first_start.flower_password_file()
            user = first_start.flower_credentials().partition(":")[0]
            self.console.print(f"flower    {running.flower}/   user {user}, password in {where}")
        if password:
            self.console.print(f"\nSign in as [bold]admin[/] with password [bold]{password}[/] (shown this once).")
        self.console.print("\nCtrl-C stops everything.\n")


def _already_running(other: RunningSystem | None) -> str:
    where = f" at {other.web}" if other and other.web else ""
    if other is None or other.is_on_this_machine:
        process, stop = f" (process {other.pid if other else 'unknown'})", "Stop it with Ctrl-C there"
    else:
        process, stop = f" in another container or on another machine, {other.host}, with this folder", "Stop it there"
    return (
        f"The system is already running{where}{process}. "
        f"{stop}, or set HANDBELL_DATA_DIR to another folder to run a second one."
    )


def _names(text: str) -> list[str]:
    names = [name.strip().removesuffix("@") for name in text.split(",") if name.strip()]
    wrong = [name for name in names if not name.replace("-", "").replace("_", "").isalnum()]
    if wrong or len(set(names)) != len(names):
        raise CommandError(f"--workers {text}: give different names of letters and digits, as in --workers w1,w2.")
    return names


def _parts(options: dict[str, Any], names: Sequence[str]) -> list[ManagedProcess]:
    parts: list[ManagedProcess] = []
    if uses_embedded_broker():
        embedded_broker().hold()
        parts.append(process_table.broker())
    else:
        with suppress(BrokerRefuses):  # what runs waits until it is no longer full
            require_broker(BROKER_ANSWER_SECONDS)
    if not options["no_workers"]:
        parts += process_table.workers(names)
    if not options["no_beat"]:
        parts.append(process_table.beat())
    if not options["no_flower"] and process_table.has_flower():
        parts.append(process_table.flower(options["flower_port"], first_start.flower_credentials()))
    if not options["no_web"]:
        parts.append(process_table.web(options["host"], options["port"]))
    return parts


def _prepare_database(*, create_admin: bool) -> str | None:
    """Bring the database up to date; the password of the admin account if one was created."""
    try:
        call_command("migrate", interactive=False, verbosity=0)
        return first_start.ensure_admin() if create_admin else None
    except DatabaseError as error:
        raise CommandError(
            f"The database cannot be used ({str(error).strip()}). Start it, or correct DATABASE_URL."
        ) from error
    finally:
        connections.close_all()


def _admin_shown(web: str) -> str:
    try:
        return f"   admin {web}{reverse('admin:index')}"
    except NoReverseMatch:
        return ""


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


def _why_not_ready(running: RunningSystem) -> str:
    """ "" once everything answers; a sentence if more than time is needed."""
    try:
        if running.web:
            host, _, port = running.web.removeprefix("http://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=2).close()
        if not running.workers:
            return ""
        require_broker()
        with broker_errors():
            return "" if _workers_that_run() >= running.workers else NOT_YET
    except BrokerRefuses as refusal:
        return str(refusal)
    except (OSError, BrokerUnavailable, DatabaseError):
        return NOT_YET
    finally:
        connections.close_all()


def _workers_that_run() -> int:
    """Those that answer; where Celery's remote control is switched off, those that have registered themselves."""
    if current_app.conf.worker_enable_remote_control:
        return len(current_app.control.ping(timeout=0.7) or [])
    registered = Owner.objects.filter(kind=Owner.WORKER).values_list("pk", flat=True)
    return sum(not is_dead(process) for process in registered)
