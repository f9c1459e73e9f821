"""The example workloads: how each is started, and what must be true when it has finished.

The home page and `manage.py demo` start and judge them through the same few lines.
"""

from tasks_app.workloads.base import Progress, Verdict, Workload
from tasks_app.workloads.fibonacci import Fibonacci
from tasks_app.workloads.identifiers import Identifiers
from tasks_app.workloads.jobs import Jobs
from tasks_app.workloads.launches import Launches
from tasks_app.workloads.periodic import Periodic
from tasks_app.workloads.serial import SerialState
from tasks_app.workloads.visits import Visits
from tasks_app.workloads.words import WordFrequency

WORKLOADS: dict[str, Workload] = {
    workload.slug: workload
    for workload in (
        SerialState(),
        Fibonacci(),
        Identifiers(),
        WordFrequency(),
        Jobs(),
        Visits(),
        Launches(),
        Periodic(),
    )
}

__all__ = ["WORKLOADS", "Progress", "Verdict", "Workload"]
