"""Whether a history of one key can be explained by some order of its operations, each at a moment between its call and
its end: the search of Wing and Gong, with Lowe's memory of what has been tried.

J. M. Wing, C. Gong: "Testing and Verifying Concurrent Objects", 1993. G. Lowe: "Testing for Linearizability", 2017.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

State = Hashable


@dataclass(frozen=True)
class Step:
    """An operation that took place: what it is, with which value, what came of it, and between which moments."""

    name: str
    value: object
    result: object
    invoked: float
    ended: float


Model = Callable[[State, Step], "State | None"]


def counter(state: State, step: Step) -> State | None:
    """`add` answers the new value, `look` the value."""
    assert isinstance(state, int)
    after = state + int(str(step.value)) if step.name == "add" else state
    return after if step.result == after else None


def register(state: State, step: Step) -> State | None:
    """`swap` answers the value that was there, `look` that which is there."""
    if step.result != state:
        return None
    return step.value if step.name == "swap" else state


def growing_list(state: State, step: Step) -> State | None:
    """`append` answers how many there are then. The state is their number: which they are says the list itself."""
    assert isinstance(state, int)
    return state + 1 if step.result == state + 1 else None


MODELS: dict[str, Model] = {"counter": counter, "register": register, "list": growing_list, "own": growing_list}


def is_linearizable(steps: Sequence[Step], model: Model, initial: State) -> bool:
    """Whether there is such an order."""
    order = sorted(steps, key=lambda step: step.invoked)
    everything = (1 << len(order)) - 1
    tried: set[tuple[int, State]] = set()
    path: list[tuple[int, State]] = [(0, initial)]  # done so far, as bits, and the state then
    while path:
        done, state = path.pop()
        if done == everything:
            return True
        following = [(done | 1 << number, model(state, step)) for number, step in _candidates(order, done)]
        unchanged = [(after, reached) for after, reached in following if reached == state]
        # What changes nothing may as well be done at once.
        for after, reached in unchanged[:1] or following:
            if reached is not None and (after, reached) not in tried:
                tried.add((after, reached))
                path.append((after, reached))
    return False


def _candidates(order: Sequence[Step], done: int) -> Iterator[tuple[int, Step]]:
    """The steps that may come next: they began before any other ended that has not had its turn."""
    horizon = min(step.ended for number, step in enumerate(order) if not done >> number & 1)
    for number, step in enumerate(order):
        if step.invoked > horizon:
            return
        if not done >> number & 1:
            yield number, step
