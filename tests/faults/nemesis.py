"""Faults at random: processes killed and frozen, messages lost and doubled, the database restarted."""

import random
import shutil
import signal
import time
from contextlib import ExitStack, suppress

import psutil
from django.db import Error

from handbell.embedded.broker import EmbeddedBroker
from handbell.models import JobRow
from handbell.parallel.doorbell import send
from handbell.serial.doorbell import lane_doorbell
from tests.servers import Postgres, wait_for
from tests.system import Running, System

FROZEN_SECONDS = 2  # HANDBELL_SERIAL_IDLE_SECONDS of the system under test


def ring_too_often(lanes: list[int]) -> None:
    """Inside the system: send the doorbells of these lanes, and those of all jobs ten times."""
    for lane in lanes:
        lane_doorbell(lane).send()
    with suppress(Error):
        for job in JobRow.objects.all():
            for _ in range(10):
                send(job)


class Nemesis:
    """Keeps three workers of a queue going, and does one thing after another to them and to what they need."""

    def __init__(
        self, system: System, postgres: Postgres | None, seed: int, stack: ExitStack, queue: str = "serial"
    ) -> None:
        self.system, self.postgres, self.stack, self.queue = system, postgres, stack, queue
        self.random = random.Random(seed)
        self.done: dict[str, int] = {}
        self.broker: EmbeddedBroker | None = None
        if "CELERY_BROKER_URL" not in system.environment:
            self.broker = EmbeddedBroker(system.folder / "broker")
            self.broker.attach()
            stack.callback(self.broker.release)
        self.workers: list[Running] = [self._worker(number) for number in range(3)]

    def _worker(self, number: int) -> Running:
        options = [f"--queues={self.queue},serial", f"--hostname=w{number}-{time.monotonic_ns()}@%h"]
        options += ["--concurrency=4" if number == 2 else "--concurrency=1", "--include=tests.faults.tasks"]
        return self.stack.enter_context(self.system.process("celery", "worker", "--without-mingle", *options))

    def wait_for_workers(self) -> None:
        wait_for(lambda: all(worker.process.children() for worker in self.workers), "the workers have children", 60)

    def rage(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        deeds = [self.kill_a_child, self.kill_a_worker, self.freeze_a_child, self.lose_messages, self.double_doorbells]
        if self.postgres is not None:
            deeds.append(self.restart_the_database)
        while time.monotonic() < end:
            deed = self.random.choice(deeds)
            with suppress(psutil.Error, IndexError):
                deed()
                self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1
            time.sleep(self.random.uniform(0.1, 0.8))

    def kill_a_child(self) -> None:
        self._child().kill()

    def kill_a_worker(self) -> None:
        number = self.random.randrange(3)
        worker = self.workers[number]
        worker.kill()
        self.workers[number] = self._worker(number)

    def freeze_a_child(self) -> None:
        """Past the time after which PostgreSQL ends its transaction. SQLite's lock would be kept: only for a moment."""
        child = self._child()
        child.send_signal(signal.SIGSTOP)
        time.sleep(FROZEN_SECONDS + 1.0 if self.postgres is not None else 0.5)
        child.send_signal(signal.SIGCONT)

    def lose_messages(self) -> None:
        """The broker loses everything that it holds."""
        if self.broker is not None:
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    if f"unixsocket:{self.broker.socket_path}" in " ".join(process.cmdline()):
                        process.kill()
            shutil.rmtree(self.broker.directory / "appendonlydir", ignore_errors=True)
        else:
            self.system.manage("celery", "purge", "--force", f"--queues={self.queue},serial")

    def double_doorbells(self) -> None:
        lanes = [self.random.randrange(16) for _ in range(10)]
        self.system.call(ring_too_often, lanes)

    def restart_the_database(self) -> None:
        assert self.postgres is not None
        self.postgres.restart()

    def _child(self) -> psutil.Process:
        worker = self.random.choice(self.workers)
        return self.random.choice(worker.process.children())
