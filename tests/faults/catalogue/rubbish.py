"""Messages that nobody of ours has sent; see `tests.faults.rubbish`."""

import time

from tests.faults.faulting import fault
from tests.faults.ground import Ground


@fault("There is rubbish on the broker: random bytes, wrong headers, pickles, doorbells of nothing.", quick=True)
def send_rubbish(ground: Ground) -> None:
    ground.ask("rubbish.send_all()")
    time.sleep(3)
    assert not (ground.control / "executed").exists(), "rubbish was executed"
