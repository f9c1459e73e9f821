"""How to declare an isolated task, and what calling it does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from celery import shared_task
from celery.result import AsyncResult

from handbell.arguments import require_call, require_integer, require_iterable, require_number, require_text
from handbell.common.ledger_task import LedgerTask, ManyResults
from handbell.conf import conf
from handbell.isolated.enqueue import LaunchCall, enqueue_launch, enqueue_launches
from handbell.models import Launch
from handbell.queues import ISOLATED

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

GRACE_SECONDS = 0.1  # between TERM and KILL
MIN_MEMORY_MB = 16
MAX_MEMORY_MB = 16_777_216
MIN_SECONDS, MAX_SECONDS = 0.001, 10**9


class IsolatedTask(LedgerTask[P, R_co]):
    """A task whose calls are launches: written to the ledger with the caller's own transaction, each run in a process
    of its own.
    """

    abstract = True
    queue = ISOLATED

    timeout: float
    memory_mb: int | None = None
    grace: float = GRACE_SECONDS

    def launch(self, *args: P.args, **kwargs: P.kwargs) -> Launch:
        """Enqueue one launch in the current transaction, and return its row at once."""
        return enqueue_launch(self.bind_arguments(args, kwargs))

    def launch_many(self, calls: Iterable[Any]) -> ManyResults[R_co]:
        """Enqueue a launch for each of `calls`: a tuple of arguments, or one argument.

        `calls` may be a generator of any length, such as `queryset.iterator()`. It is taken in parts; each is a
        transaction of its own, unless the caller has one, and its launches may begin while the rest is still to come.
        """
        given_calls = require_iterable("launch_many()", calls)
        bound = (self.bind_arguments(_as_arguments(given), {}) for given in given_calls)
        return enqueue_launches(bound, self.AsyncResult)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        time_limit: float | None = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """Enqueue one launch in the current transaction, and return at once.

        `time_limit` is used instead of the task's timeout. A second call with the same `task_id` launches nothing and
        returns the first one's result.

        Raises:
            TypeError, ValueError: the arguments do not fit the task, an option is not for isolated tasks, or its value
                makes no sense.
            NotJson, ArgumentsTooLarge: the arguments cannot be stored.
        """
        self.refuse_options(options, "an isolated task", "task_id and time_limit")
        if time_limit:
            require_number("time_limit", time_limit, 0, MAX_SECONDS)
        task_id = require_text("task_id", task_id) if task_id else None
        call = self.bind_arguments(*require_call(self.name, args, kwargs), time_limit)
        return self.AsyncResult(enqueue_launch(call, task_id).task_id)

    def bind_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None = None) -> LaunchCall:
        """What is to be launched, within which limits.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        self.__header__(*args, **kwargs)  # type: ignore[attr-defined]
        memory = conf.LAUNCH_MEMORY_MB if self.memory_mb is None else self.memory_mb
        return LaunchCall(self.name, args, kwargs, timeout or self.timeout, self.grace, memory)


def _as_arguments(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


@overload
def isolated_task(
    *, timeout: float, memory_mb: int | None = ..., grace: float = ..., name: str = ..., bind: Literal[False] = ...
) -> Callable[[Callable[P, R]], IsolatedTask[P, R]]: ...
@overload
def isolated_task(
    *, timeout: float, memory_mb: int | None = ..., grace: float = ..., name: str = ..., bind: Literal[True]
) -> Callable[[Callable[Concatenate[Any, P], R]], IsolatedTask[P, R]]: ...
def isolated_task(
    *,
    timeout: float,
    memory_mb: int | None = None,
    grace: float = GRACE_SECONDS,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Declare an isolated task.

    After `timeout` seconds a launch is sent TERM, with everything it has started, and after `grace` more seconds it is
    killed. `memory_mb` is what it may use together with everything it has started, in MiB.

    Raises:
        TypeError, ValueError: a limit makes no sense.
    """

    def declare(run: Callable[..., Any]) -> Any:
        declared: Any = shared_task  # the stubs know no base= together with a function
        check_limits(run.__name__, timeout, memory_mb, grace)
        if "name" in options:
            require_text(f"@isolated_task {run.__name__}: name=", options["name"])
        return declared(run, base=IsolatedTask, timeout=timeout, memory_mb=memory_mb, grace=grace, **options)

    return declare


def check_limits(name: str, timeout: float, memory_mb: int | None, grace: float) -> None:
    """
    Raises:
        TypeError, ValueError: a limit makes no sense.
    """
    require_number(f"@isolated_task {name}: timeout=", timeout, MIN_SECONDS, MAX_SECONDS)
    require_number(f"@isolated_task {name}: grace=", grace, 0, MAX_SECONDS)
    if memory_mb is not None:
        require_integer(f"@isolated_task {name}: memory_mb=", memory_mb, MIN_MEMORY_MB, MAX_MEMORY_MB)
