"""The settings that come from environment variables: each read once, checked, and described in one place.

A value that cannot be read never raises here: the default is used instead and the sentence that says what is
wrong is kept in `Environment.problems`, which a system check reports before anything starts.
"""

import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import dj_database_url
from environs import Env, EnvError

from handbell import kept_secret

T = TypeVar("T")


@dataclass(frozen=True)
class Variable:
    """One environment variable: what it is called, what it is when unset, and what it is for."""

    name: str
    default: str
    purpose: str


@dataclass(frozen=True)
class Problem:
    """A variable whose value cannot be used: the name, what is wrong and how to fix it."""

    name: str
    sentence: str
    fix: str


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

    def names(self, name: str, default: list[str], purpose: str, *, shown: str | None = None) -> list[str]:
        shown = ",".join(default) if shown is None else shown
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
        minimum: int = 0,
        maximum: int = 10**9,
        shown: str | None = None,
    ) -> int:
        value = self._read(self._env.int, name, default, purpose, "a whole number", shown)
        if minimum <= value <= maximum:
            return value
        self.refuse(name, f"is {value}", f"Set it to a whole number from {minimum} to {maximum}.")
        return default

    def choice(self, name: str, default: str, purpose: str, choices: Sequence[str]) -> str:
        allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        value = self.text(name, default, f"{purpose} {allowed}.")
        if value in choices:
            return value
        self.refuse(name, f"is {value!r}", f"Set it to {allowed}.")
        return default

    def folder(self, name: str, default: Path, purpose: str, *, shown: str) -> Path:
        """A folder that can be written to; it is made if it is not there."""
        folder = Path(self.text(name, str(default), purpose, shown=shown)).resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            wrong = f"is {folder}, which cannot be written to ({error.strerror})"
            self.refuse(name, wrong, "Set it to a folder you may write to.")
        return folder

    def secret_key(self, path: Path, *, may_generate: bool) -> str:
        """SECRET_KEY; for the default set-up, one that is generated and kept in the file at `path`."""
        name = "SECRET_KEY"
        purpose = "Signs sessions and links. Required as soon as `DATABASE_URL` or `CELERY_BROKER_URL` is set."
        if key := self.text(name, "", purpose, shown="generated, for the default set-up only"):
            return key
        if may_generate:
            try:
                return kept_secret(path)
            except OSError:  # the folder cannot be written to, which is reported already
                return secrets.token_urlsafe(50)
        self.refuse(
            name,
            "is not set, and a generated one is for the default set-up only",
            "Set it to at least 50 random characters: python -c 'import secrets; print(secrets.token_urlsafe(50))'",
        )
        return secrets.token_urlsafe(50)

    def web_address(self) -> str:
        """Where the web server of `handbell up` listens, for the processes that it runs; otherwise nothing."""
        return self._env.str("HANDBELL_WEB_ADDRESS", "")

    def refuse(self, name: str, wrong: str, fix: str) -> None:
        """Keep a problem: `name` `wrong`. `fix`"""
        self.problems.append(Problem(name, f"{name} {wrong}.", fix))

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


def database(environment: Environment, sqlite: Path) -> dict[str, Any]:
    """The database that DATABASE_URL names, or the SQLite file at `sqlite`."""
    purpose = "The database: `postgres://user:password@host:5432/name`, or `sqlite:///path`."
    shown = "SQLite in `HANDBELL_DATA_DIR`"
    url = environment.text("DATABASE_URL", f"sqlite:///{quote(str(sqlite))}", purpose, shown=shown)
    try:
        config: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        config = {}
    if config.get("OPTIONS", {}).pop("disable_server_side_cursors", None):  # behind PgBouncer
        config["DISABLE_SERVER_SIDE_CURSORS"] = True
    engine = config.get("ENGINE")
    if engine == "django.db.backends.sqlite3" and config["NAME"] != ":memory:":  # each process would have its own
        return config
    if engine == "django.db.backends.postgresql" and (config["NAME"] or "service" in config.get("OPTIONS", {})):
        return config
    environment.refuse(
        "DATABASE_URL",
        "is not the address of a PostgreSQL or SQLite database",
        "Set it to postgres://user:password@host:5432/name, or unset it to use SQLite.",
    )
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
