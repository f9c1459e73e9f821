"""Serial work: operations wait in lanes, and each lane applies them one at a time, in order, and their
effects in the database exactly once. Those that are external run at least once.

Declare with `serial_task`; call with `delay`, `delay_many`, `apply_async` or `adelay`.
"""
