"""Every error a caller may want to catch, under one root. Each message says what happened and what to do."""


class HandbellError(Exception):
    """The root of Handbell's own errors."""


class BrokerUnavailable(HandbellError):
    """The broker cannot be reached, or the embedded one did not start."""


class BrokerRefuses(BrokerUnavailable):
    """The broker answers, but takes no messages: its memory or its disk is full."""


class OutsideLane(HandbellError):
    """A row of a serial model was about to be changed by something other than an operation of its lane."""


class NotJson(HandbellError, TypeError):
    """Arguments or a result that JSON cannot hold."""


class RowMissing(HandbellError):
    """An operation was about to change a row that does not exist."""


class UnknownTask(HandbellError):
    """An operation or a job names a task that this deployment does not have."""


class ProcessDied(HandbellError):
    """An operation or an item was given up, or a launch has ended, because the process that ran it died."""


class CallRefused(HandbellError):
    """A call of a plain task was asked for something that cannot be done now."""


class LaneRefused(HandbellError):
    """A lane or an operation was asked for something that cannot be done now."""


class JobRefused(HandbellError):
    """A job was asked for something that cannot be done, or cannot be done now."""


class ItemFailed(HandbellError):
    """The result of an item that has failed was asked for."""


class ItemTimedOut(HandbellError):
    """An item of a job took longer than its `item_timeout`."""


class ArgumentsTooLarge(HandbellError, ValueError):
    """The arguments of a call are larger than `HANDBELL_ARGUMENTS_MB` allows."""


class ResultTooLarge(HandbellError):
    """A launch returned more than is stored."""


class LaunchRefused(HandbellError):
    """A launch was asked for something that cannot be done now."""
