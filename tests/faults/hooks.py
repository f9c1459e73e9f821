"""Every process of the system loads this: while the file `doorbells` is there, what it sends is sent twice, lost or
overtaken. `double`, `drop` (every third) or `reorder` (each second one waits for the next) is what the file says.
"""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu.messaging import Producer

FILE = Path(os.environ["FAULTS_CONTROL"], "doorbells")
_publish: Callable[..., Any] = Producer.publish
_count = itertools.count(1)
_held: list[Callable[[], Any]] = []
_lock = threading.Lock()


def publish(self: Producer, *args: Any, **kwargs: Any) -> Any:
    try:
        how = FILE.read_text()
    except OSError:
        return _publish(self, *args, **kwargs)
    if how == "drop" and next(_count) % 3 == 0:
        return None
    if how == "double":
        _publish(self, *args, **kwargs)
    if how == "reorder":
        with _lock:
            if not _held:
                _held.append(lambda: _send_later(self, args, kwargs))
                threading.Timer(0.5, _release).start()  # if nothing else is sent
                return None
    sent = _publish(self, *args, **kwargs)
    _release()
    return sent


def _release() -> None:
    with _lock:
        held = _held.pop() if _held else None
    if held is not None:
        held()


def _send_later(producer: Producer, args: Any, kwargs: Any) -> None:
    """On a connection of its own: the producer's may be used by another thread by now."""
    app = __import__("celery").current_app
    with app.connection_for_write() as connection:
        _publish(app.amqp.Producer(connection), *args, **kwargs)


setattr(Producer, "publish", publish)  # noqa: B010  (a type checker would refuse the other way)
