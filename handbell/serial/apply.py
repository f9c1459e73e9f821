"""Applying a batch of operations in order, within one transaction, so that a failing one leaves the others alone.

Rows handed to `on=` tasks are loaded once per batch, changed in memory and written once at its end. A failed
operation's row gets its former values back, so no savepoint is needed. A function that turns out to use the database
is run again, after everything before it has been written. Functions without `on=` run like that from the start.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery import current_app
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from handbell.common.codec import decode_arguments, encode_error, encode_result, formatted_traceback
from handbell.common.connections import was_interrupted
from handbell.common.outages import lacks_resources
from handbell.common.time_limits import WorkKind, is_told_to_stop, run_limited
from handbell.errors import HandbellError, RowMissing, UnknownTask
from handbell.models import SerialModel
from handbell.models.serial import in_lane
from handbell.serial import sql
from handbell.serial.bulk_write import write_changed
from handbell.serial.declare import SerialTask
from handbell.serial.modes import Mode
from handbell.serial.row_state import auto_now_fields, drop_caches, restore, snapshot
from handbell.serial.sql import OperationFailure, PendingOperation

logger = logging.getLogger(__name__)

RowKey = tuple[type[SerialModel], Any]


class _UsesDatabase(BaseException):
    """Raised in an `on=` function at its first query, to stop it there. One that catches even this is stopped at its
    next query, or goes on to its end: `BatchApplier` remembers that there was one.
    """


class TransactionSpoiled(BaseException):
    """An operation has failed in the middle of the transaction, with no savepoint to go back to."""


class OperationInterrupted(BaseException):
    """A soft time limit was raised in an operation that used the database: in which state the connection is, nobody
    knows. `error` is what has come of it.
    """

    def __init__(self, operation_id: int, claim_token: int, error: BaseException) -> None:
        super().__init__(operation_id, claim_token, error)
        self.operation_id, self.claim_token, self.error = operation_id, claim_token, error


class BatchApplier:
    """Applies operations of one lane, out of `lanes`. Their outcomes are in `succeeded` (id, JSON) and `failed`; the
    caller writes it. `claim_token` is that of the one operation, if it was claimed. Without savepoints a failing
    operation that has used the database raises `TransactionSpoiled`.
    """

    def __init__(self, lane: int, lanes: int, mode: Mode = Mode.SAVEPOINTS, claim_token: int = 0) -> None:
        self.lane, self.lanes, self.mode, self.claim_token = lane, lanes, mode, claim_token
        self.succeeded: list[tuple[int, str]] = []
        self.failed: list[OperationFailure] = []
        self._rows: dict[RowKey, SerialModel | None] = {}
        self._stored: dict[RowKey, dict[str, Any]] = {}
        self._dirty: set[RowKey] = set()
        self._batch: list[tuple[PendingOperation, SerialTask[..., Any] | None, list[Any], dict[str, Any]]] = []
        self._tasks_using_database: set[str] = set()
        self._connection = connections[DEFAULT_DB_ALIAS]
        self._in_memory, self._has_queried = False, False
        self._classes: dict[type[SerialModel], type[SerialModel]] = {}
        self._limits: dict[str, tuple[float | None, float | None]] = {}
        self.savepoints = 0

    def prepare(self, batch: Sequence[PendingOperation]) -> None:
        """Find the tasks and decode the arguments of the whole batch at once."""
        decoded = json.loads(f"[{','.join(operation.arguments for operation in batch)}]")
        tasks = {name: find_serial_task(name) for name in {operation.task for operation in batch}}
        self._limits = {name: task.time_limits() for name, task in tasks.items() if task is not None}
        declared = [task.name for task in tasks.values() if task and (task.soft_time_limit or task.time_limit)]
        sql.extend_idle_timeout(max((self._limits[name][1] or 0.0 for name in declared), default=0.0))
        self._batch = [
            (operation, tasks[operation.task], args, kwargs)
            for operation, (args, kwargs) in zip(batch, decoded, strict=True)
        ]

    def apply(self, number: int) -> OperationFailure | None:
        """Apply operation `number` of the prepared batch; its failure, if it failed."""
        operation, task, args, kwargs = self._batch[number]
        hooks = len(self._connection.run_on_commit)
        try:
            if task is None:
                raise UnknownTask(  # noqa: TRY301
                    f"This deployment has no serial task called {operation.task}. Deploy it, then retry the operation."
                )
            if task.on is None:
                self.write()
                result = self._with_database(number, task, args, kwargs)
            else:
                result = self._on_row(number, task, args, kwargs)
        except (Exception, SystemExit) as error:  # (whatever else it is, it is the operation's own)
            if is_told_to_stop(error) or lacks_resources(error):
                raise
            failure = describe_failure(operation, error, blocks=task is not None and task.blocks)
            self.failed.append(failure)
            return failure
        self._keep_hooks_apart(operation.task, hooks)
        self.succeeded.append((operation.id, result))
        return None

    def _keep_hooks_apart(self, task: str, first: int) -> None:
        """Let none of the functions that are to run after the commit, from the `first` on, stop those behind it."""
        registered: list[Any] = self._connection.run_on_commit
        registered[first:] = [(ids, partial(_run_hook, task, hook), robust) for ids, hook, robust in registered[first:]]

    def write(self) -> None:
        """Write all rows that have changed. They are kept: they are as the database has them."""
        for model, keys in self._by_model(self._dirty).items():
            rows = [self._rows[key] for key in keys]
            stored = [self._stored.get(key) for key in keys]
            write_changed(model, rows, stored)  # type: ignore[arg-type]
            for key, row in zip(keys, rows, strict=True):
                self._stored[key] = snapshot(row)  # type: ignore[arg-type]
        self._dirty.clear()

    def _on_row(self, number: int, task: SerialTask[..., Any], args: list[Any], kwargs: dict[str, Any]) -> str:
        model: type[SerialModel] = task.on  # type: ignore[assignment]
        key = (model, model._meta.pk.to_python(args[0]))
        self._take_rows_as(model)
        if key not in self._rows:
            self._load_rows(number, model)
        row = self._loaded_or_new(task, key)
        if self.mode.writes_each or task.name in self._tasks_using_database:
            return self._on_row_with_database(number, task, key, row, args, kwargs)
        database, before = self._connection, snapshot(row)
        hooks, broken = len(database.run_on_commit), database.needs_rollback
        self._in_memory, self._has_queried = True, False
        try:
            with in_lane(self.lane, self.lanes, row):
                result = self._run(number, task, (row, *args[1:]), kwargs)
            if not self._has_queried:
                self._note_change(key, row, before)
                return result
        except BaseException:
            if not self._has_queried:
                restore(row, before)
                del database.run_on_commit[hooks:]
                raise
        finally:
            self._in_memory = False
        restore(row, before)
        del database.run_on_commit[hooks:]
        database.needs_rollback = broken  # nothing has reached the database, whatever it was about to do
        self._tasks_using_database.add(task.name)
        args, kwargs = decode_arguments(self._batch[number][0].arguments)  # the function may have changed them
        return self._on_row_with_database(number, task, key, row, args, kwargs)

    def _run(self, number: int, task: SerialTask[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> str:
        """Run the function, within its time limits; its result as JSON."""
        work, limits = (WorkKind.OPERATION, *self._run_of(number)), self._limits[task.name]
        return encode_result(task.name, run_limited(*work, *limits, lambda: task.run(*args, **kwargs)))

    def _run_of(self, number: int) -> tuple[int, int]:
        """The id of an operation, and the token under which it runs."""
        return self._batch[number][0].id, self.claim_token

    def _note_change(self, key: RowKey, row: SerialModel, before: dict[str, Any]) -> None:
        drop_caches(row, before)
        if row.__dict__ == before and self._rows[key] is row:
            return
        if row.pk != before[row._meta.pk.attname]:
            raise HandbellError(f"The primary key of a {type(row).__name__} cannot be changed by its own task.")
        for field in auto_now_fields(type(row)):
            field.pre_save(row, add=False)
        row.version += 1
        self._rows[key] = row
        self._dirty.add(key)

    def _on_row_with_database(
        self,
        number: int,
        task: SerialTask[..., Any],
        key: RowKey,
        row: SerialModel,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> str:
        """Everything so far is written first, so that queries see it; afterwards rows are loaded anew."""
        self.write()
        before = snapshot(row)
        try:
            with self._savepoint(number), in_lane(self.lane, self.lanes, row):
                result = self._run(number, task, (row, *args[1:]), kwargs)
                if row.pk is not None or key[0]._base_manager.filter(pk=key[1]).exists():  # it may have been deleted
                    self._note_change(key, row, before)
                    self.write()
        finally:
            self._forget_rows()
        return result

    def _with_database(self, number: int, task: SerialTask[..., Any], args: list[Any], kwargs: dict[str, Any]) -> str:
        try:
            with self._savepoint(number), in_lane(self.lane, self.lanes):
                return self._run(number, task, args, kwargs)
        finally:
            self._forget_rows()

    @contextmanager
    def _savepoint(self, number: int) -> Iterator[None]:
        """A savepoint for one operation, or in the mode without them, what happens when it would be needed."""
        if self.mode.has_savepoints:
            self.savepoints += 1
            with transaction.atomic(), self._uninterrupted(number):
                yield
        else:
            try:
                with self._uninterrupted(number):
                    yield
            except (Exception, SystemExit) as error:
                if is_told_to_stop(error):
                    raise
                raise TransactionSpoiled from error

    @contextmanager
    def _uninterrupted(self, number: int) -> Iterator[None]:
        """
        Raises:
            OperationInterrupted: a soft time limit was raised within the block.
        """
        savepoints: list[Any] = list(self._connection.savepoint_ids)
        try:
            yield
        except Exception as error:
            if was_interrupted(error):
                raise OperationInterrupted(*self._run_of(number), error) from error
            raise
        if self._connection.savepoint_ids != savepoints or not self._connection.in_atomic_block:
            reason = HandbellError("It went on after a soft time limit in the middle of a statement to the database.")
            raise OperationInterrupted(*self._run_of(number), reason)

    def _forget_rows(self) -> None:
        self._rows.clear()
        self._stored.clear()
        self._dirty.clear()
        self._classes.clear()

    def _loaded_or_new(self, task: SerialTask[..., Any], key: RowKey) -> SerialModel:
        row = self._rows[key]
        if row is None and task.create:
            row = key[0](**{key[0]._meta.pk.attname: key[1]})  # it counts as there once the operation has succeeded
        if row is None:
            raise RowMissing(
                f"There is no {key[0].__name__} {key[1]!r}. Create it first, or declare {task.name} with create=True."
            )
        return row

    def _take_rows_as(self, model: type[SerialModel]) -> None:
        """The rows of a table are instances of one class at a time: of its model, or of a proxy."""
        table = model.stored_as()
        if self._classes.setdefault(table, model) is not model:
            self.write()
            self._forget_rows()
            self._classes[table] = model

    def _load_rows(self, number: int, model: type[SerialModel]) -> None:
        """Load every row of `model` that the rest of the batch needs, with one query."""
        to_python = model._meta.pk.to_python
        rest = self._batch[number:]
        wanted = {to_python(args[0]) for _, task, args, _ in rest if task is not None and task.on is model}
        wanted -= {pk for known, pk in self._rows if known is model}
        found = model._base_manager.in_bulk(wanted)
        for pk in wanted:
            row = found.get(pk)
            self._rows[model, pk] = row
            if row is not None:
                self._stored[model, pk] = snapshot(row)

    @staticmethod
    def _by_model(
        keys: set[RowKey],
    ) -> dict[type[SerialModel], list[RowKey]]:
        grouped: dict[type[SerialModel], list[RowKey]] = {}
        for key in keys:
            grouped.setdefault(key[0], []).append(key)
        return grouped

    @contextmanager
    def watching_queries(self) -> Iterator[None]:
        """For the length of a batch: a query from within an `on=` function makes it run again with the database."""

        def watch(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if self._in_memory:
                self._has_queried = True
                raise _UsesDatabase
            return execute(sql, params, many, context)

        with self._connection.execute_wrapper(watch):
            yield


def _run_hook(task: str, hook: Callable[[], Any]) -> None:
    """Run what an operation has registered with `transaction.on_commit`. The operations after it have theirs."""
    try:
        hook()
    except (Exception, SystemExit) as error:
        if is_told_to_stop(error):
            raise
        logger.exception("%s: a function that was to run after the commit has failed.", task)


def find_serial_task(name: str) -> SerialTask[..., Any] | None:
    """The serial task with this name, if this deployment has it."""
    task = current_app.tasks.get(name)
    return task if isinstance(task, SerialTask) else None


def describe_failure(operation: PendingOperation, error: BaseException, *, blocks: bool) -> OperationFailure:
    return OperationFailure(operation.id, operation.task, encode_error(error), formatted_traceback(error), blocks)
