"""How to declare an isolated task, and what calling it does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celery import shared_task
from celery.result import AsyncResult
from django.conf import settings

from tasks_app.calls import LedgerTask, ManyResults
from tasks_app.isolated.enqueue import Call, enqueue, enqueue_many
from tasks_app.models import Launch
from tasks_app.queues import ISOLATED

GRACE_SECONDS = 0.1  # between TERM and KILL
LEAST_MEMORY_MB = 16
LONGEST_ID = 255  # characters, as in the ledger's column


class IsolatedTask(LedgerTask):
    """A task whose calls are launches: written to the ledger with the caller's own transaction, each run in a process
    of its own.
    """

    abstract = True
    queue = ISOLATED.name

    timeout: float
    memory_mb: int | None = None
    grace: float = GRACE_SECONDS

    def launch(self, *args: Any, **kwargs: Any) -> Launch:
        """Enqueue one launch in the current transaction, and return its row at once."""
        return enqueue(self.call(args, kwargs))

    def launch_many(self, calls: Iterable[Any]) -> ManyResults:
        """Enqueue a launch for each of `calls`: a tuple of arguments, or one argument.

        `calls` may be a generator of any length, such as `queryset.iterator()`. It is taken in parts; each is a
        transaction of its own, unless the caller has one, and its launches may begin while the rest is still to come.
        """
        return enqueue_many((self.call(_as_arguments(given), {}) for given in calls), self.AsyncResult)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        time_limit: float | None = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Enqueue one launch in the current transaction, and return at once.

        `time_limit` takes the place of the task's timeout. A second call with the same `task_id` launches nothing and
        returns the first one's result.

        Raises:
            TypeError: the arguments do not fit the task, are not JSON, or an option is not for isolated tasks.
        """
        self.refuse(options, "an isolated task", "task_id and time_limit")
        if task_id is not None and len(task_id) > LONGEST_ID:
            raise TypeError(f"task_id has {len(task_id)} characters; it may have {LONGEST_ID} at the most.")
        call = self.call(tuple(args or ()), dict(kwargs or {}), time_limit)
        return self.AsyncResult(enqueue(call, task_id).task_id)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None = None) -> Call:
        """Check the arguments, and say what is to be launched within which limits.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        self.__header__(*args, **kwargs)  # type: ignore[attr-defined]
        memory = settings.LAUNCH_MEMORY_MB if self.memory_mb is None else self.memory_mb
        return Call(self.name, args, kwargs, timeout or self.timeout, self.grace, memory)


def _as_arguments(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def isolated_task(
    *,
    timeout: float,
    memory_mb: int | None = None,
    grace: float = GRACE_SECONDS,
    **options: Any,
) -> Callable[[Callable[..., Any]], Any]:
    """Declare an isolated task.

    `timeout`: seconds after which the launch is sent TERM, with everything it has started; after `grace` more it is
    killed. `memory_mb`: what it may use together with everything it has started, in MiB.

    Raises:
        TypeError: a limit makes no sense.
    """

    def declare(run: Callable[..., Any]) -> Any:
        declared: Any = shared_task  # the stubs know no base= together with a function
        _check_limits(run.__name__, timeout, memory_mb, grace)
        return declared(run, base=IsolatedTask, timeout=timeout, memory_mb=memory_mb, grace=grace, **options)

    return declare


def _check_limits(name: str, timeout: float, memory_mb: int | None, grace: float) -> None:
    if not timeout > 0:
        raise TypeError(f"@isolated_task {name}: timeout= is a number of seconds above 0, not {timeout!r}.")
    if not grace >= 0:
        raise TypeError(f"@isolated_task {name}: grace= is a number of seconds, not {grace!r}.")
    if memory_mb is not None and memory_mb < LEAST_MEMORY_MB:
        raise TypeError(f"@isolated_task {name}: memory_mb= is {LEAST_MEMORY_MB} at the least, not {memory_mb!r}.")
