"""The class of every `@shared_task`: written as Celery's documentation says, with its state known from the call on."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from asgiref.sync import sync_to_async
from celery import states
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Ignore, Reject
from celery.result import AsyncResult
from celery.utils.log import get_logger
from django.db import transaction

from handbell.celery.async_run import is_in_coroutine, synchronous
from handbell.celery.backend import DatabaseBackend
from handbell.celery.call_run import CallRun, call_run
from handbell.celery.confirmation import confirmed_arguments, drop_unrecorded, refuses_unrecorded
from handbell.common.connections import close_connections, close_left_open, in_transactions, was_interrupted
from handbell.common.outages import retry_through_outage

REPLACED = "Replaced by new task"  # as Celery says it
logger = get_logger(__name__)


class PlainTask(DjangoTask):  # type: ignore[type-arg]
    """A Celery task. A worker claims its call in the ledger before it runs it, so a second message starts nothing."""

    abstract = True
    shares_claims = True  # whether calls may be claimed together (see plain/batching.py); False: a message for each
    max_crashes = 3  # processes that may die while they run one call before it is lost; 1: it never runs a second time
    Request = "handbell.celery.request:PlainRequest"
    coroutine_function: Callable[..., Any] | None = None  # of an `async def` task, which `run` runs to its end

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        given = cls.__dict__.get("run")
        function = given.__func__ if isinstance(given, staticmethod) else given
        if inspect.iscoroutinefunction(function):
            cls.coroutine_function = given
            cls.run = synchronous(function, bound=function is given)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In a worker, claim the call and run it; anywhere else, call the function itself, which for an `async def`
        function returns a coroutine.
        """
        request: Any = self.request
        if self.coroutine_function is not None and (request.called_directly or is_in_coroutine()):
            return self.coroutine_function(*args, **kwargs)
        run = call_run(request)
        is_here = request.called_directly or request.is_eager or (run is not None and run.has_begun)
        if is_here or not isinstance(self.app.backend, DatabaseBackend):
            return super().__call__(*args, **kwargs)
        is_claimed = run is not None  # with others (see batch.py)
        run = request.call_run = run or CallRun()
        run.has_begun = True
        outer = in_transactions()  # of tests that run their tasks themselves
        try:
            if not is_claimed:
                self._claim(request, run)
                if refuses_unrecorded(self.name):
                    args, kwargs = confirmed_arguments(self.name, request, run)  # type: ignore[assignment]
            return self._run(request, run, args, kwargs, outer)
        except BaseException as error:
            if was_interrupted(error):
                close_connections(but=outer)
            raise

    def _run(self, request: Any, run: CallRun, args: Any, kwargs: Any, outer: Collection[str]) -> Any:
        result = None
        try:
            try:
                result = self.run(*args, **kwargs)
            finally:
                close_left_open(but=outer)  # before the outcome is stored
        except Reject as reject:
            self._end_without_result(request, states.REJECTED, requeue=bool(getattr(reject, "requeue", False)))
            raise
        except Ignore:
            if run.replacement is None:
                self._end_without_result(request, states.IGNORED)
                raise
        if run.replacement is not None:
            self._call_replacement(request, run)
        return result

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """`delay`, for asynchronous callers."""
        return await sync_to_async(self.apply_async)(args, kwargs)

    async def aupdate_state(self, *args: Any, **kwargs: Any) -> None:
        """`update_state`, for tasks that are `async def` functions."""
        await sync_to_async(self.update_state)(*args, **kwargs)

    def _claim(self, request: Any, run: CallRun) -> None:
        if is_recorded(self, request.ignore_result):
            backend: Any = self.app.backend
            if not backend.claim(request, run):
                logger.info("%s %s is dropped: it has run, or runs elsewhere.", self.name, request.id)
                raise Ignore
        else:
            drop_unrecorded(self.name, request.id)

    def _end_without_result(self, request: Any, state: str, *, requeue: bool = False) -> None:
        if is_recorded(self, request.ignore_result):
            backend: Any = self.app.backend
            backend.end_without_result(request, state, requeue=requeue)

    def on_replace(self, sig: Any) -> Any:
        """What `self.replace` ends with: the signature is called when the run has ended."""
        request: Any = self.request
        run = call_run(request)
        if run is None or not is_recorded(self, request.ignore_result):
            return super().on_replace(sig)
        run.replacement = sig
        raise Ignore(REPLACED)

    def _call_replacement(self, request: Any, run: CallRun) -> None:
        """Give the call's id free and, in the same transaction, call the signature that takes its place and its id."""
        backend: Any = self.app.backend

        def hand_over() -> None:
            request.call_run = CallRun(run.claim_token, has_begun=True)
            with transaction.atomic():
                if backend.end_without_result(request, states.PENDING):
                    request.call_run = None  # the replacement has the same id, and is no retry
                    run.replacement.delay()

        retry_through_outage(hand_over)
        raise Ignore(REPLACED)


def is_recorded(task: Any, ignore_result: bool | None) -> bool:
    """Whether calls of this task are recorded: those of plain tasks whose result somebody may ask for.

    `ignore_result=True`, and another result backend, leave a task with Celery's bare speed, and its guarantees.
    """
    if not isinstance(task, PlainTask) or not isinstance(task.app.backend, DatabaseBackend):
        return False
    return not (task.ignore_result if ignore_result is None else ignore_result)
