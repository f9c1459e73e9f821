"""Every process of the system loads this: while the file `deaths` is there, a worker's processes die at random points
of what they do: before or after a statement or a commit, or a message that they send. The file says how likely that is.

So there is no point in the engine at which nobody has died yet, and none that has to be named.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from kombu.messaging import Producer

from tests.faults.history import own_history

FILE = Path(os.environ["FAULTS_CONTROL"], "deaths")


def perhaps_die() -> None:
    try:
        likelihood = float(FILE.read_text())
    except (OSError, ValueError):
        return
    if random.SystemRandom().random() < likelihood:  # a fork has its parent's state of any other
        process = psutil.Process()
        own_history().write("hurt", pids=[process.pid, *(child.pid for child in process.children(recursive=True))])
        os.kill(os.getpid(), signal.SIGKILL)


def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        perhaps_die()
        result = function(*args, **kwargs)
        perhaps_die()
        return result

    return call


if "worker" in sys.argv:
    for owner, name in (
        (CursorWrapper, "execute"),
        (CursorWrapper, "executemany"),
        (BaseDatabaseWrapper, "commit"),
        (Producer, "publish"),
    ):
        setattr(owner, name, deadly(getattr(owner, name)))
