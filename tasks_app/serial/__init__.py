"""Serial work: operations wait in lanes, and each lane applies them one at a time, in order, exactly once.

Declare with `serial_task`; call with `delay`, `delay_many`, `apply_async` or `adelay`.
"""

from tasks_app.serial.declare import SerialTask, serial_task
from tasks_app.serial.drain import drain

__all__ = ["SerialTask", "drain", "serial_task"]
