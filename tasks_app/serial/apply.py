"""Applying a batch of operations: in order, within one transaction, each failing alone.

Rows handed to `on=` tasks are loaded once per batch, changed in memory and written once at its end. A failed
operation's row gets its former values back, so no savepoint is needed. A function that turns out to use the database
is run again as what it is: with everything before it written. Functions without `on=` run like that from the start.
What uses the database needs a savepoint each to fail alone, which costs as much as the work of a short function: so it
is tried without (`Spoiled` says that this went wrong), and done again with savepoints only if one has failed.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from traceback import format_exc
from typing import Any, NamedTuple

from celery import current_app
from celery.utils.serialization import ensure_serializable
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction

from tasks_app.errors import NotJson, RowMissing, TasksAppError, UnknownTask
from tasks_app.models import SerialModel
from tasks_app.models.serial import in_lane
from tasks_app.serial.declare import SerialTask
from tasks_app.serial.rows import write_changed

MOST_TRACEBACK = 20_000
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_SCALAR_FIELDS = (
    models.AutoField,
    models.BooleanField,
    models.CharField,
    models.DateField,
    models.DecimalField,
    models.DurationField,
    models.FloatField,
    models.ForeignKey,
    models.IntegerField,
    models.TextField,
    models.TimeField,
    models.UUIDField,
)


class Pending(NamedTuple):
    """An operation as the drain reads it."""

    id: int
    task: str
    arguments: str
    attempts: int
    held: bool  # an owner is at work in the lane, outside any transaction; perhaps on another operation


class Failure(NamedTuple):
    id: int
    error: str
    traceback: str
    blocks: bool


class _UsesDatabase(BaseException):
    """Thrown out of an `on=` function at its first query; not an Exception, so that the function does not catch it."""


class Spoiled(BaseException):
    """An operation has failed in the middle of the transaction, with no savepoint to go back to."""


class Applier:
    """Applies operations of one lane. What came of them is in `succeeded` (id, JSON) and `failed` until it is
    written.

    `alone`: each `on=` operation is written before the next one. `guarded`: with savepoints; without them a failing
    operation that has used the database raises `Spoiled`.
    """

    def __init__(self, lane: int, lanes: int, *, alone: bool = False, guarded: bool = True) -> None:
        self.lane, self.lanes, self.alone, self.guarded = lane, lanes, alone, guarded
        self.succeeded: list[tuple[int, str]] = []
        self.failed: list[Failure] = []
        self._rows: dict[tuple[type[SerialModel], Any], SerialModel | None] = {}
        self._stored: dict[tuple[type[SerialModel], Any], dict[str, Any]] = {}
        self._dirty: set[tuple[type[SerialModel], Any]] = set()
        self._todo: list[tuple[Pending, SerialTask | None, list[Any], dict[str, Any]]] = []
        self._using_database: set[str] = set()
        self._connection = connections[DEFAULT_DB_ALIAS]
        self._in_memory = False
        self.savepoints = 0

    def prepare(self, batch: Sequence[Pending]) -> None:
        """Find the tasks and decode the arguments of the whole batch at once."""
        decoded = json.loads(f"[{','.join(operation.arguments for operation in batch)}]")
        tasks = {name: find(name) for name in {operation.task for operation in batch}}
        self._todo = [
            (operation, tasks[operation.task], args, kwargs)
            for operation, (args, kwargs) in zip(batch, decoded, strict=True)
        ]

    def apply(self, number: int) -> Failure | None:
        """Apply operation `number` of the prepared batch; its failure, if it failed."""
        operation, task, args, kwargs = self._todo[number]
        try:
            if task is None:
                raise UnknownTask(  # noqa: TRY301
                    f"This deployment has no serial task called {operation.task}. Deploy it, then retry the operation."
                )
            if task.on is None:
                self.write()
                result = self._with_database(task, args, kwargs)
            else:
                result = self._on_row(number, task, args, kwargs)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it is, it is the operation's own)
            failure = describe(operation.id, error, blocks=task is not None and task.blocks)
            self.failed.append(failure)
            return failure
        self.succeeded.append((operation.id, result))
        return None

    def write(self) -> None:
        """Write all rows that have changed, and forget none: they are as the database has them."""
        for model, keys in self._by_model(self._dirty).items():
            rows = [self._rows[key] for key in keys]
            stored = [self._stored.get(key) for key in keys]
            write_changed(model, rows, stored)  # type: ignore[arg-type]
            for key, row in zip(keys, rows, strict=True):
                self._stored[key] = _snapshot(row)  # type: ignore[arg-type]
        self._dirty.clear()

    def _on_row(self, number: int, task: SerialTask, args: list[Any], kwargs: dict[str, Any]) -> str:
        model: type[SerialModel] = task.on  # type: ignore[assignment]
        key = (model, model._meta.pk.to_python(args[0]))
        if key not in self._rows:
            self._load(number, model)
        row = self._row(task, key)
        if self.alone or task.name in self._using_database:
            return self._on_row_with_database(task, key, row, args, kwargs)
        database, before = self._connection, _snapshot(row)
        hooks, broken = len(database.run_on_commit), database.needs_rollback
        self._in_memory = True
        try:
            with in_lane(self.lane, self.lanes, row):
                result = encode(task, task.run(row, *args[1:], **kwargs))
            self._note_change(key, row, before)
            return result
        except BaseException as error:
            row.__dict__.clear()
            row.__dict__.update(before)
            row._state.fields_cache.clear()  # noqa: SLF001
            del database.run_on_commit[hooks:]
            if not isinstance(error, _UsesDatabase):
                raise
            database.needs_rollback = broken  # nothing has reached the database, whatever it was about to do
        finally:
            self._in_memory = False
        self._using_database.add(task.name)
        args, kwargs = decode(self._todo[number][0].arguments)  # the function may have changed them
        return self._on_row_with_database(task, key, row, args, kwargs)

    def _note_change(self, key: tuple[type[SerialModel], Any], row: SerialModel, before: dict[str, Any]) -> None:
        # What the function has kept on the row for itself, such as cached properties, is not for the next one.
        row._state.fields_cache.clear()  # noqa: SLF001
        if len(row.__dict__) > len(before):
            for name in row.__dict__.keys() - before.keys():
                del row.__dict__[name]
        if row.__dict__ == before and self._rows[key] is row:
            return
        if row.pk != before[row._meta.pk.attname]:
            raise TasksAppError(f"The primary key of a {type(row).__name__} cannot be changed by its own task.")
        for field in _auto_now_fields(type(row)):
            field.pre_save(row, add=False)
        row.version += 1
        self._rows[key] = row
        self._dirty.add(key)

    def _on_row_with_database(
        self,
        task: SerialTask,
        key: tuple[type[SerialModel], Any],
        row: SerialModel,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> str:
        """Everything so far is written first, so that queries see it; afterwards rows are loaded anew."""
        self.write()
        before = _snapshot(row)
        try:
            with self._failing_alone(), in_lane(self.lane, self.lanes, row):
                result = encode(task, task.run(row, *args[1:], **kwargs))
                if row.pk is not None or key[0]._base_manager.filter(pk=key[1]).exists():  # it may have been deleted
                    self._note_change(key, row, before)
                    self.write()
        finally:
            self._forget()
        return result

    def _with_database(self, task: SerialTask, args: list[Any], kwargs: dict[str, Any]) -> str:
        try:
            with self._failing_alone(), in_lane(self.lane, self.lanes):
                return encode(task, task.run(*args, **kwargs))
        finally:
            self._forget()

    @contextmanager
    def _failing_alone(self) -> Iterator[None]:
        if self.guarded:
            self.savepoints += 1
            with transaction.atomic():
                yield
        else:
            try:
                yield
            except (Exception, SystemExit) as error:
                raise Spoiled from error

    def _forget(self) -> None:
        self._rows.clear()
        self._stored.clear()
        self._dirty.clear()

    def _row(self, task: SerialTask, key: tuple[type[SerialModel], Any]) -> SerialModel:
        row = self._rows[key]
        if row is None and task.create:
            row = key[0](**{key[0]._meta.pk.attname: key[1]})  # it counts as there once the operation has succeeded
        if row is None:
            raise RowMissing(
                f"There is no {key[0].__name__} {key[1]!r}. Create it first, or declare {task.name} with create=True."
            )
        return row

    def _load(self, number: int, model: type[SerialModel]) -> None:
        """Load every row of `model` that the rest of the batch needs, with one query."""
        to_python = model._meta.pk.to_python
        rest = self._todo[number:]
        wanted = {to_python(args[0]) for _, task, args, _ in rest if task is not None and task.on is model}
        wanted -= {pk for known, pk in self._rows if known is model}
        found = model._base_manager.in_bulk(wanted)
        for pk in wanted:
            row = found.get(pk)
            self._rows[model, pk] = row
            if row is not None:
                self._stored[model, pk] = _snapshot(row)

    @staticmethod
    def _by_model(
        keys: set[tuple[type[SerialModel], Any]],
    ) -> dict[type[SerialModel], list[tuple[type[SerialModel], Any]]]:
        grouped: dict[type[SerialModel], list[tuple[type[SerialModel], Any]]] = {}
        for key in keys:
            grouped.setdefault(key[0], []).append(key)
        return grouped

    @contextmanager
    def watching_queries(self) -> Iterator[None]:
        """For the length of a batch: a query from within an `on=` function makes it run again with the database."""

        def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if self._in_memory:
                raise _UsesDatabase
            return execute(sql, params, many, context)

        with self._connection.execute_wrapper(watch):
            yield


def find(name: str) -> SerialTask | None:
    """The serial task with this name, if this deployment has it."""
    task = current_app.tasks.get(name)
    return task if isinstance(task, SerialTask) else None


def decode(arguments: str) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = json.loads(arguments)
    return args, kwargs


def _snapshot(row: SerialModel) -> dict[str, Any]:
    """The row's attributes as they are; values that can be changed in place are copied."""
    before = dict(row.__dict__)
    for name in _mutable_fields(type(row)):
        if name in before:
            before[name] = copy.deepcopy(before[name])
    return before


@cache
def _mutable_fields(model: type[models.Model]) -> tuple[str, ...]:
    return tuple(
        field.attname
        for field in model._meta.concrete_fields
        if not (isinstance(field, _SCALAR_FIELDS) and type(field).__module__.startswith("django.db.models."))
    )


@cache
def _auto_now_fields(model: type[models.Model]) -> tuple["models.Field[Any, Any]", ...]:
    return tuple(field for field in model._meta.concrete_fields if getattr(field, "auto_now", False))


def encode(task: SerialTask, result: Any) -> str:
    """The result as JSON.

    Raises:
        NotJson: it is something else; the message names its type.
    """
    if type(result) is int:
        return str(result)
    try:
        return _encode(result)
    except (TypeError, ValueError) as error:
        raise NotJson(f"{task.name} returned what JSON cannot hold: {error}.") from error


def describe(operation_id: int, error: BaseException, *, blocks: bool) -> Failure:
    """A failure as Celery's result backends store one, so that `AsyncResult.get()` raises it again."""
    kind = type(error)
    stored = {
        "exc_type": kind.__name__,
        "exc_message": ensure_serializable(list(error.args), _encode),
        "exc_module": kind.__module__,
    }
    # PostgreSQL keeps neither NUL nor half a surrogate pair, and an error may quote anything.
    trace = format_exc()[-MOST_TRACEBACK:].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return Failure(operation_id, _encode(stored), trace, blocks)
