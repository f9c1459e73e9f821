"""Runs in a peer's own environment: `python driver.py PROGRAM CALLS WAITS`, with `PROGRAM` one of the modules here.

It enqueues so many calls, says how long that took, waits for a line (the workers are started meanwhile), fetches every
result, and then measures from a call to its result so many times. Each task returns its number and when it began.
"""

import importlib
import json
import sys
import time
from typing import Any


def main(program: str, calls: int, waits: int) -> None:
    peer: Any = importlib.import_module(program)
    peer.result  # noqa: B018  (it is there)
    started = time.perf_counter()
    handles = [peer.call(number) for number in range(calls)]
    say(enqueue_seconds=time.perf_counter() - started)
    sys.stdin.readline()
    found = [peer.result(handle) for handle in handles]
    begun = [begin for _, begin in found]
    exact = sorted(number for number, _ in found) == list(range(calls))
    times = []
    for number in range(waits):
        started = time.perf_counter()
        exact = exact and peer.result(peer.call(number))[0] == number
        times.append((time.perf_counter() - started) * 1000)
        time.sleep(0.02)
    say(run_seconds=max(begun) - min(begun), exact=exact, wait_ms=times)


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
