"""Import paths: a job is stored, so each process that runs it must find the functions that it calls by name."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from celery import Task, current_app

from handbell.arguments import shown
from handbell.errors import UnknownTask


def import_path(function: Any, what: str) -> str:
    """The name under which every worker finds the function: a task's own, or `module:function`.

    Raises:
        TypeError: it is neither a task nor a function at the top of a module.
    """
    if isinstance(function, Task) or hasattr(function, "apply_async"):
        return str(function.name)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not callable(function) or not module or module == "__main__" or not name.isidentifier():
        raise TypeError(f"{what} takes a task or a function at the top of a module, not {shown(function)}.")
    return f"{module}:{name}"


def load_function(path: str) -> Callable[..., Any]:
    """The function of an import path; for a task, the function that it runs.

    Raises:
        UnknownTask: this deployment does not have it.
    """
    module, _, name = path.partition(":")
    if name:
        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            raise UnknownTask(f"This deployment has no function {name} in {module}. Deploy it.") from None
        return getattr(function, "run", function)
    task = current_app.tasks.get(path)
    if task is None:
        raise UnknownTask(f"This deployment has no task called {path}. Deploy it.")
    run: Callable[..., Any] = task.run
    return run


def coroutine_function(path: str) -> Callable[..., Any] | None:
    """The `async def` function of the task with this name, if it is one."""
    return getattr(current_app.tasks.get(path), "coroutine_function", None)
