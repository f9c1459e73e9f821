"""The admin pages. The ledger can be viewed and steered, not edited; periodic tasks and schedules can be edited."""

from handbell.admin import groups, jobs, lanes, launches, periodic, results

__all__ = ["groups", "jobs", "lanes", "launches", "periodic", "results"]
