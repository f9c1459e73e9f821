"""For tests of code that calls serial tasks: apply what waits, here and now, in the test's own process and
transaction.
"""

from tasks_app import states
from tasks_app.models import Lane, Operation
from tasks_app.serial.drain import Drain


def run_operations(*, scheduled: bool = False) -> int:
    """Apply every waiting operation, also those that they enqueue, lane by lane; how many there were.

    With `scheduled`, those that wait for their countdown or eta are applied, too. No broker and no worker is needed.
    """
    applied = 0
    while True:
        if scheduled:
            Operation.objects.filter(status=states.QUEUED).update(not_before=None)
        before = applied
        for lane in Lane.objects.values_list("pk", flat=True):
            drain = Drain(lane, deaths=0, careful=0)
            drain.run()
            applied += drain.applied
        if applied == before:
            return applied
