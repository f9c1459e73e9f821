"""Every error a caller may want to catch, under one root. Each message says what happened and what to do."""


class TasksAppError(Exception):
    """The root of the project's own errors."""


class BrokerUnavailable(TasksAppError):
    """The broker cannot be reached, or the embedded one did not start."""


class FetchRefused(TasksAppError):
    """A page was not fetched: its address is not allowed, or it was too large, too slow or not there."""


class OutsideLane(TasksAppError):
    """A row of a serial model was to be changed by something else than an operation of its lane."""


class NotJson(TasksAppError, TypeError):
    """Arguments or a result that JSON cannot hold."""


class RowMissing(TasksAppError):
    """An operation was to change a row that is not there."""


class UnknownTask(TasksAppError):
    """An operation or a job names a task that this deployment does not have."""


class ProcessDied(TasksAppError):
    """An operation or an item was given up, or a launch has ended, because the process that ran it died."""


class LaneRefused(TasksAppError):
    """A lane or an operation was asked for something that does not go now."""


class JobRefused(TasksAppError):
    """A job was asked for something that does not go, or not now."""


class ItemFailed(TasksAppError):
    """The result was asked for of an item that has failed."""


class ItemTimedOut(TasksAppError):
    """An item of a job took longer than its `item_timeout`."""


class ResultTooLarge(TasksAppError):
    """A launch returned more than is kept."""


class LaunchRefused(TasksAppError):
    """A launch was asked for something that does not go now."""
