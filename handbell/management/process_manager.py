"""Keeps processes running, reports what happens to them, and leaves none behind."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from handbell.celery.worker import stop_seconds
from handbell.common.child_process import describe_exit, die_with_parent
from handbell.management.process_table import ManagedProcess, environment
from handbell.queues import queue_names

# Work first, then the broker that it needs to finish. With the defaults, everything is gone within 10 s.
EXIT_SECONDS = 1.0  # for a worker that has given back what it did not finish
BROKER_STOP_SECONDS = 2.0
MAX_RESTART_PAUSE_SECONDS = 30.0
STABLE_SECONDS = 10.0
LAST_LINES_SECONDS = 0.5  # for what a process wrote before it ended
MAX_LINE_BYTES = 1024 * 1024

Say = Callable[[str, str], None]


class ProcessManager:
    """Runs `processes`, each in a session of its own; one that ends is started again, after a growing pause."""

    def __init__(self, processes: Sequence[ManagedProcess], say: Say, folder: Path) -> None:
        self.processes = processes
        self.say = say
        self.folder = folder
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.relays: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()

    def stop(self) -> None:
        """Stop everything; called a second time, kill what has not stopped yet."""
        (self.hurry if self.stopping.is_set() else self.stopping).set()

    async def run(self) -> None:
        """Run until `stop`."""
        tasks = [asyncio.create_task(self._keep_running(process)) for process in self.processes]
        await self.stopping.wait()
        last = [name for name in self.running if name == "broker"]
        seconds = stop_seconds(queue_names()) + EXIT_SECONDS
        await self._end([name for name in self.running if name not in last], seconds)
        await self._end(last, BROKER_STOP_SECONDS)
        await asyncio.gather(*tasks)
        for relay in self.relays:
            relay.cancel()

    async def _keep_running(self, process: ManagedProcess) -> None:
        pause = 1.0
        while not self.stopping.is_set():
            started = time.monotonic()
            ending = await self._run_once(process)
            if self.stopping.is_set():
                return
            lived = time.monotonic() - started
            pause = 1.0 if lived > STABLE_SECONDS else min(pause * 2, MAX_RESTART_PAUSE_SECONDS)
            self.say(
                process.name, f"ended unexpectedly ({ending}) after {lived:.0f} s; starting it again in {pause:.0f} s"
            )
            try:
                await asyncio.wait_for(self.stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _run_once(self, process: ManagedProcess) -> str:
        output, its_output = os.pipe()  # asyncio's own pipe keeps Process.wait() until everybody has closed it
        relay = asyncio.create_task(self._relay(process.name, output))
        self.relays.add(relay)
        relay.add_done_callback(self.relays.discard)
        try:
            child = await asyncio.create_subprocess_exec(
                *process.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=its_output,
                stderr=asyncio.subprocess.STDOUT,
                env=environment(process.environment),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        finally:
            os.close(its_output)
        self.running[process.name] = child
        code = await child.wait()
        _kill_group(child.pid)  # a pool's processes do not outlive the worker they belong to
        await asyncio.wait([relay], timeout=LAST_LINES_SECONDS)  # what has a session of its own may go on writing
        del self.running[process.name]
        return describe_exit(code)

    async def _relay(self, name: str, output: int) -> None:
        """Say what is written into the pipe, until everybody who can has closed it."""
        lines = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(output, "rb", buffering=0)
        )
        try:
            while not lines.at_eof():
                try:
                    line = await lines.readline()
                except ValueError:  # a line longer than the limit: what is left of it comes next
                    continue
                if line:
                    self.say(name, line.decode(errors="replace").rstrip())
        finally:
            pipe.close()

    async def _end(self, names: Sequence[str], seconds: float) -> None:
        children = {name: self.running[name] for name in names if name in self.running}
        for child in children.values():
            _signal(child, signal.SIGTERM)
        waits = [asyncio.create_task(child.wait()) for child in children.values()]
        hurry = asyncio.create_task(self.hurry.wait())
        deadline = time.monotonic() + seconds
        while not hurry.done() and (pending := [wait for wait in waits if not wait.done()]):
            if (left := deadline - time.monotonic()) <= 0:
                break
            await asyncio.wait([*pending, hurry], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for name, child in children.items():
            if child.returncode is None:
                self.say(name, f"was killed: it did not stop within {seconds:.0f} s")
                _kill_group(child.pid)


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        child.send_signal(number)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left in it
        os.killpg(pid, signal.SIGKILL)
