"""How to declare a serial task, and what calling it does."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from string import Formatter
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload
from uuid import UUID

from celery import shared_task
from celery.result import AsyncResult
from django.db import models
from django.utils import timezone

from handbell.arguments import (
    MAX_DELAY_SECONDS,
    require_call,
    require_iterable,
    require_moment,
    require_number,
    require_text,
    shown,
)
from handbell.common.ledger_task import LedgerTask, ManyResults
from handbell.conf import conf
from handbell.models import SerialModel
from handbell.queues import SERIAL
from handbell.serial.enqueue import OperationCall, enqueue_operation, enqueue_operations

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Row = TypeVar("Row", bound=SerialModel)
PrimaryKey = int | str | UUID  # for a key of any other type, pass the row
OnFailure = Literal["continue", "block"]

TAKES = "task_id, countdown, eta and idempotency_key; to go on after it, enqueue from within another task"
GLOBAL_KEY = ""
GRACE_SECONDS = 5.0  # from the soft time limit to the hard one, where none is given


class SerialTask(LedgerTask[P, R_co]):
    """A task whose calls are operations: written to the ledger with the caller's own transaction, applied in a lane."""

    abstract = True
    queue = SERIAL

    on: type[SerialModel] | None = None
    create = False
    key: str | None = None
    external = False
    blocks = False  # a failure holds the lane

    def time_limits(self) -> tuple[float | None, float | None]:
        """For how many seconds its function may run until `SoftTimeLimitExceeded` is raised in it, and until its
        process is killed: as it declares, or Celery's settings for all tasks, or `HANDBELL_SERIAL_TIME_LIMIT_SECONDS`.
        """
        soft = self.soft_time_limit or self.app.conf.task_soft_time_limit
        hard = self.time_limit or self.app.conf.task_time_limit
        if not soft and not hard:
            soft = conf.SERIAL_TIME_LIMIT_SECONDS
        return soft, hard or (soft and soft + GRACE_SECONDS)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Called directly it is the function itself, which takes a row where a call takes a key.

        Raises:
            TypeError: it is called directly with a key.
        """
        if self.on is not None and self.request.called_directly and args and not isinstance(args[0], self.on):
            raise TypeError(
                f"{self.name} called directly takes a {self.on.__name__}, not {shown(args[0])}. To enqueue an "
                "operation, write .delay(…)."
            )
        return super().__call__(*args, **kwargs)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> AsyncResult[R_co]:
        """Enqueue one operation in the current transaction, and return at once.

        `countdown` (seconds) or `eta` say from when on it may be applied. A second call with the same
        `idempotency_key`, or the same `task_id`, enqueues nothing and returns the first one's result.

        Raises:
            TypeError, ValueError: the arguments do not fit the task, an option is not for serial tasks, or its value
                makes no sense.
            NotJson, ArgumentsTooLarge: the arguments cannot be stored.
        """
        self.refuse_options(options, "a serial task", TAKES)
        not_before = require_moment("eta", eta) if eta else None
        if countdown:
            seconds = require_number("countdown", countdown, -MAX_DELAY_SECONDS, MAX_DELAY_SECONDS)
            not_before = timezone.now() + timedelta(seconds=seconds)
        if idempotency_key is not None:
            given = require_text("idempotency_key", idempotency_key)
            idempotency_key = require_text("idempotency_key", f"{self.name}:{given}")
        call = self.bind_arguments(*require_call(self.name, args, kwargs))
        task_id = require_text("task_id", task_id) if task_id else None
        return self.AsyncResult(enqueue_operation(call, task_id, not_before, idempotency_key))

    def delay_many(self, calls: Iterable[Sequence[Any]]) -> ManyResults[R_co]:
        """Enqueue an operation for each tuple of arguments, in their order, in one transaction.

        `calls` may be a generator of any length; it is taken in parts. The answer is a sequence of results that holds
        no more than one id in memory.
        """
        bound = (
            self.bind_arguments(*require_call(self.name, args, None))
            for args in require_iterable("delay_many()", calls)
        )
        return enqueue_operations(self.name, bound, self.AsyncResult)

    def bind_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OperationCall:
        """Check the arguments and find their key.

        Raises:
            TypeError: the arguments do not fit the function.
            ValueError: the key is no text that databases can hold.
        """
        if self.on is not None:
            if not args:
                name = next(iter(inspect.signature(self.run).parameters))
                args = (kwargs.pop(name),) if name in kwargs else ()
            self.__header__(*args, **kwargs)  # type: ignore[attr-defined]
            pk = self._primary_key(args[0])
            return OperationCall(self.name, require_text("The key", self.on.key_of(pk)), (pk, *args[1:]), kwargs)
        self.__header__(*args, **kwargs)  # type: ignore[attr-defined]
        return OperationCall(self.name, self._key_from_arguments(args, kwargs), args, kwargs)

    def _primary_key(self, given: Any) -> Any:
        assert self.on is not None
        field = self.on._meta.pk
        if isinstance(given, self.on):
            given = given.pk
        if given is None or isinstance(given, models.Model):
            raise TypeError(f"{self.name} takes the primary key of a {self.on.__name__} first, not {shown(given)}.")
        try:
            pk = field.to_python(given)
            field.run_validators(pk)
        except Exception as error:  # ValidationError has no plain message
            raise TypeError(f"{self.name}: {shown(given)} is not a primary key of {self.on.__name__}.") from error
        return pk if isinstance(pk, int | str) else str(pk)

    def _key_from_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self.key is None:
            return GLOBAL_KEY
        bound = inspect.signature(self.run).bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            key = self.key.format_map(bound.arguments)
        except Exception as error:
            raise TypeError(f"{self.name}: its key cannot be made from these arguments: {error}.") from error
        return require_text("The key", key)


@overload
def serial_task(function: Callable[P, R], /) -> SerialTask[P, R]: ...
@overload
def serial_task(
    *,
    on: type[Row],
    create: bool = ...,
    on_failure: OnFailure = ...,
    name: str = ...,
    soft_time_limit: float | None = ...,
    time_limit: float | None = ...,
) -> Callable[[Callable[Concatenate[Row, P], R]], SerialTask[Concatenate[Row | PrimaryKey, P], R]]: ...
@overload
def serial_task(
    *,
    key: str | None = ...,
    external: bool = ...,
    on_failure: OnFailure = ...,
    name: str = ...,
    soft_time_limit: float | None = ...,
    time_limit: float | None = ...,
    bind: Literal[False] = ...,
) -> Callable[[Callable[P, R]], SerialTask[P, R]]: ...
@overload
def serial_task(
    *,
    key: str | None = ...,
    external: bool = ...,
    on_failure: OnFailure = ...,
    name: str = ...,
    soft_time_limit: float | None = ...,
    time_limit: float | None = ...,
    bind: Literal[True],
) -> Callable[[Callable[Concatenate[Any, P], R]], SerialTask[P, R]]: ...
def serial_task(
    function: Callable[..., Any] | None = None,
    *,
    on: type[SerialModel] | None = None,
    create: bool = False,
    key: str | None = None,
    external: bool = False,
    on_failure: str = "continue",
    **options: Any,
) -> Any:
    """Declare a serial task.

    `on=Model`: the first argument is a primary key in the call and the row in the function, which changes the row's
    fields and nothing else; `create=True` makes a missing row. `key="report:{account_id}"`: one order per key, filled
    in from the arguments. Neither: one order for all calls of all such tasks. `external=True`: the function has
    effects outside the database, and runs at least once, outside any transaction. `on_failure="block"`: a failure
    holds the lane until somebody skips or retries it.

    Raises:
        TypeError: the options contradict each other or do not fit the function.
    """

    def declare(run: Callable[..., Any]) -> Any:
        _check_declaration(run, on, key, create=create, external=external, on_failure=on_failure)
        for limit in ("soft_time_limit", "time_limit"):
            if options.get(limit) is not None:
                require_number(f"@serial_task {run.__name__}: {limit}=", options[limit], 0, MAX_DELAY_SECONDS)
        if "name" in options:
            require_text(f"@serial_task {run.__name__}: name=", options["name"])
        declared: Any = shared_task  # the stubs know no base= together with a function
        task = declared(
            run,
            base=SerialTask,
            on=on,
            create=create,
            key=key,
            external=external,
            blocks=on_failure == "block",
            **options,
        )
        if on is not None:
            on.serial_tasks.append(run.__name__)
        return task

    return declare if function is None else declare(function)


def _check_declaration(
    run: Callable[..., Any],
    on: type[SerialModel] | None,
    key: str | None,
    *,
    create: bool,
    external: bool,
    on_failure: str,
) -> None:
    name, parameters = run.__name__, inspect.signature(run).parameters
    if inspect.iscoroutinefunction(run):
        raise TypeError(
            f"@serial_task {name}: it runs in the transaction of its lane, which an `async def` function cannot share. "
            "Write `def`, or put what has to wait for others into a @shared_task."
        )
    if on is not None and (key is not None or external):
        raise TypeError(f"@serial_task {name}: on= gives the key and the row; leave out key= and external=.")
    if on is not None and not (inspect.isclass(on) and issubclass(on, SerialModel)):
        raise TypeError(f"@serial_task {name}: on= takes a subclass of SerialModel, not {shown(on)}.")
    if on is not None and not parameters:
        raise TypeError(f"@serial_task {name}: with on= the function takes the row first.")
    if key is not None:
        require_text(f"@serial_task {name}: key=", key)
    if create and on is None:
        raise TypeError(f"@serial_task {name}: create= needs on=.")
    if on_failure not in ("continue", "block"):
        raise TypeError(f"@serial_task {name}: on_failure= is 'continue' or 'block', not {shown(on_failure)}.")
    fields = {
        field.partition(".")[0].partition("[")[0]
        for _, field, _, _ in Formatter().parse(key or "")
        if field is not None
    }
    if missing := fields - set(parameters):
        raise TypeError(f"@serial_task {name}: key={key!r} names {', '.join(sorted(missing))}, which it does not take.")
