"""Isolated tasks that misbehave in every way."""

import os
import time

from tasks_app.isolated import isolated_task


@isolated_task(timeout=20)
def nothing(number: int = 0) -> int:
    return number


@isolated_task(timeout=1)
def hang() -> None:
    print("hanging")
    while True:
        time.sleep(60)
