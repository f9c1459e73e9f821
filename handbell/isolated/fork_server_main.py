"""The program that is the fork server: loads Django and all tasks, then forks what it is told to."""

import ctypes
import faulthandler
import gc
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from celery import current_app
from django.db import connections

from handbell.common.child_process import adopt_orphans, end_with_peer, outlive_peer, set_owner
from handbell.isolated.cgroups import LaunchGroups
from handbell.isolated.child import ServerContext
from handbell.isolated.fork_server import ForkServer
from handbell.isolated.process_labels import LABEL_VARIABLE
from handbell.isolated.protocol import Channel


def main() -> None:
    """The program that `fork_client` starts: its arguments are a socket's descriptor and the modules to load."""
    adopt_orphans()
    supervisor = socket.socket(fileno=int(sys.argv[1]))
    with ends_with(supervisor):
        load_tasks(sys.argv[2:])
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    channel = Channel(supervisor)
    context = server_context()
    server = ForkServer(channel, context, LaunchGroups(context.name))
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch, and so copy, the memory that it shares with this process
    gc.disable()
    server.run()


@contextmanager
def ends_with(supervisor: socket.socket) -> Iterator[None]:
    """Within the block, which does not look at the socket, this process ends when the supervisor's end is closed. The
    supervisor says nothing before it hears "ready".
    """
    set_owner(supervisor, os.getpid())
    end_with_peer(supervisor)
    with suppress(BlockingIOError):  # nothing to read: it is open
        supervisor.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        sys.exit()
    yield
    outlive_peer(supervisor)


def server_context() -> ServerContext:
    """What is to be known about this process before it has children."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    with open("/proc/self/status") as file:  # noqa: PTH123
        data_bytes = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    name = os.environ[LABEL_VARIABLE].partition(":")[0]
    return ServerContext(os.getpid(), before, data_bytes, name, _label_address())


def _label_address() -> int | None:
    """Where the label is in the memory that the kernel shows as the environment; a child writes its own there, and all
    that it forks inherit it.
    """
    with open("/proc/self/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    entry = f"{LABEL_VARIABLE}={os.environ[LABEL_VARIABLE]}".encode()
    offset = ctypes.string_at(begin, end - begin).find(entry + b"\0")
    return begin + offset + len(LABEL_VARIABLE) + 1 if offset >= 0 else None


def load_tasks(modules: list[str]) -> None:
    """Import everything that a launch may need, so that no child has to; then close the connections to databases that
    this has opened (Django's own checks open one on SQLite), or every launch would inherit them.
    """
    current_app.loader.import_default_modules()
    for module in modules:
        import_module(module)
    current_app.finalize()
    connections.close_all()
