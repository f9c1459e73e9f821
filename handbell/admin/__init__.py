"""The admin pages: what is in the ledger, as it is. Most of it can be viewed and steered, and none of it edited."""

from handbell.admin import groups, jobs, lanes, launches, periodic, results

__all__ = ["groups", "jobs", "lanes", "launches", "periodic", "results"]
