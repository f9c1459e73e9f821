"""The settings that come from environment variables: each read once, checked, and described in one place.

A value that cannot be read never raises here: the default is used instead and the sentence that says what is
wrong is kept in `Environment.problems`, which a system check reports before anything starts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from environs import Env, EnvError

T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """One environment variable: what it is called, what it is when unset, and what it is for."""

    name: str
    default: str
    purpose: str


@dataclass(frozen=True)
class Problem:
    """A variable whose value cannot be used: the name, what is wrong and how to mend it."""

    name: str
    sentence: str
    mend: str


@dataclass
class Environment:
    """Reads variables and remembers every one of them, and every problem met on the way."""

    variables: list[Variable] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _env: Env = field(default_factory=Env)

    def text(self, name: str, default: str, purpose: str, *, shown: str | None = None) -> str:
        return self._read(self._env.str, name, default, purpose, "text", shown)

    def boolean(self, name: str, default: bool, purpose: str) -> bool:
        return self._read(self._env.bool, name, default, purpose, "yes or no", "yes" if default else "no")

    def names(self, name: str, default: list[str], purpose: str) -> list[str]:
        shown = ",".join(default)
        value = self._read(self._env.list, name, default, purpose, "a list with commas", shown)
        found = [str(item).strip() for item in value if str(item).strip()]
        if self.is_set(name) and not found:
            self.refuse(name, "names nothing", "Set it to a list with commas, or unset it.")
            return default
        return found

    def number(
        self,
        name: str,
        default: int,
        purpose: str,
        *,
        least: int = 0,
        most: int = 10**9,
        shown: str | None = None,
    ) -> int:
        value = self._read(self._env.int, name, default, purpose, "a whole number", shown)
        if least <= value <= most:
            return value
        self.refuse(name, f"is {value}", f"Set it to a whole number from {least} to {most}.")
        return default

    def refuse(self, name: str, wrong: str, mend: str) -> None:
        """Keep a problem: `name` `wrong`. `mend`"""
        self.problems.append(Problem(name, f"{name} {wrong}.", mend))

    def is_set(self, name: str) -> bool:
        return bool(self._env.str(name, "").strip())

    def _read(
        self,
        parse: Callable[..., Any],
        name: str,
        default: T,
        purpose: str,
        kind: str,
        shown: str | None,
    ) -> T:
        self.variables.append(Variable(name, str(default) if shown is None else shown, purpose))
        if not self.is_set(name):
            return default
        try:
            value: T = parse(name)
        except EnvError:
            self.refuse(name, f"is {self._env.str(name)!r}, which is not {kind}", f"Set it to {kind}.")
            return default
        return value
