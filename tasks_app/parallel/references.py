"""Functions by name: a job is stored, so what it calls must be found again by another process."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from celery import Task, current_app

from tasks_app.errors import UnknownTask


def refer(function: Any, what: str) -> str:
    """The name under which every worker finds the function: a task's own, or `module:function`.

    Raises:
        TypeError: it is neither a task nor a function at the top of a module.
    """
    if isinstance(function, Task) or hasattr(function, "apply_async"):
        return str(function.name)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not callable(function) or not module or module == "__main__" or not name.isidentifier():
        raise TypeError(f"{what} takes a task or a function at the top of a module, not {function!r}.")
    return f"{module}:{name}"


def find(reference: str) -> Callable[..., Any]:
    """The function itself; for a task, the one that it runs.

    Raises:
        UnknownTask: this deployment does not have it.
    """
    module, _, name = reference.partition(":")
    if name:
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            raise UnknownTask(f"This deployment has no function {name} in {module}. Deploy it.") from None
        return getattr(function, "run", function)
    task = current_app.tasks.get(reference)
    if task is None:
        raise UnknownTask(f"This deployment has no task called {reference}. Deploy it.")
    run: Callable[..., Any] = task.run
    return run
