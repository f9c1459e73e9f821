"""What a fault is, and the one list of them, which the modules of `catalogue` fill."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.ground import SYSTEMS, Ground, Skipped

__all__ = ["FAULTS", "Fault", "Skipped", "fault"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: a sentence, and what makes it happen, which returns when it is over.

    `may_begin_again`: calls may begin a second time although nothing was done to the processes that ran them, because
    the database forgets what did not wait for its disk, or is out of their reach for longer than their lease.
    `forgets`: the database loses commits that were acknowledged. `is_quick` ones are in the selection for CI.
    """

    name: str
    sentence: str
    inject: Callable[[Ground], None]
    systems: tuple[str, ...]
    may_begin_again: bool
    forgets: bool
    is_quick: bool


FAULTS: dict[str, Fault] = {}


def fault(
    sentence: str, *, on: str = "", may_begin_again: bool = False, forgets: bool = False, quick: bool = False
) -> Callable[[Callable[[Ground], None]], Callable[[Ground], None]]:
    """Put a function into the list, under its own name with hyphens; `on` is a part of the names of its systems."""

    def register(inject: Callable[[Ground], None]) -> Callable[[Ground], None]:
        name = inject.__name__.replace("_", "-")
        systems = tuple(system for system in SYSTEMS if on in system)
        FAULTS[name] = Fault(name, sentence, inject, systems, may_begin_again or forgets, forgets, quick)
        return inject

    return register
