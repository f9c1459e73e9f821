"""A process that uses the embedded broker until its input ends: `python -m tests.broker_user FOLDER [--fork]`.

It prints "attached" once it is a user. With `--fork` it ends, and its fork becomes a user of its own and says so.
"""

import os
import sys
from pathlib import Path

from handbell.embedded.broker import EmbeddedBroker


def main() -> None:
    broker = EmbeddedBroker(Path(sys.argv[1]))
    broker.attach()
    if "--fork" in sys.argv:
        if os.fork():
            return
        broker.attach()
    sys.stdout.write("attached\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
