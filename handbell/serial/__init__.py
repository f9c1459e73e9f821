"""Serial work: operations wait in lanes, and each lane applies them one at a time, in order, exactly once.

Declare with `serial_task`; call with `delay`, `delay_many`, `apply_async` or `adelay`.
"""
