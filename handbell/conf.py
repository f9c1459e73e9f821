"""Every setting of Handbell: its name, type, default, range, and what it is for.

The system checks, `manage.py handbell settings` and docs/settings.md all derive from the declarations in `Conf`. Each
is a Django setting called `HANDBELL_…`; its value may also be text, as environment variables are.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from django.conf import settings as django_settings

T = TypeVar("T")
PREFIX = "HANDBELL_"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Problem:
    """A setting whose value cannot be used: what is wrong, and how to fix it."""

    name: str
    sentence: str
    fix: str


class Setting(Generic[T]):
    """One setting. Reading the attribute of `conf` gives its checked value, or the default if the value is wrong."""

    def __init__(
        self,
        kind: "Kind[T]",
        default: T | Callable[[], T],
        purpose: str,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        choices: tuple[str, ...] = (),
        shown: str | None = None,
        secret: bool = False,
    ) -> None:
        self.kind, self.purpose, self.secret = kind, purpose, secret
        self.minimum, self.maximum, self.choices = minimum, maximum, choices
        self._default, self._shown = default, shown
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = PREFIX + name

    def __get__(self, instance: object, owner: type | None = None) -> T:
        return self.value

    @property
    def value(self) -> T:
        """The value now."""
        value = getattr(django_settings, self.name, None)
        if value is None:
            return self.default
        try:
            return self.checked(value)
        except ValueError:
            return self.default  # the system check says what is wrong before anything starts

    @property
    def default(self) -> T:
        return self._default() if callable(self._default) else self._default

    @property
    def is_set(self) -> bool:
        return getattr(django_settings, self.name, None) is not None

    @property
    def value_shown(self) -> str:
        """The value now as people are shown it: in one line, and without a secret."""
        value: Any = self.value
        if self.secret and value:
            return "(hidden)"
        if isinstance(value, Mapping):
            return ",".join(f"{name}={number}" for name, number in value.items())
        return str(value)

    @property
    def default_shown(self) -> str:
        """The default as documentation shows it, the same on every machine."""
        return str(self.default) if self._shown is None else self._shown

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        if self.choices:
            return " or ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.kind.name} from {self.minimum:g} to {self.maximum:.12g}"
        return self.kind.name

    def checked(self, value: Any) -> T:
        """The value, converted from text if it is text.

        Raises:
            ValueError: it is of another type or out of range.
        """
        parsed = self.kind.parse(value)
        if self.choices and parsed not in self.choices:
            raise ValueError(value)
        if self.minimum is not None and not self.minimum <= parsed:  # type: ignore[operator]
            raise ValueError(value)
        if self.maximum is not None and not parsed <= self.maximum:  # type: ignore[operator]
            raise ValueError(value)
        return parsed

    def problem(self) -> Problem | None:
        """What is wrong with the value that is set, if anything is."""
        value = getattr(django_settings, self.name, None)
        if value is None:
            return None
        try:
            self.checked(value)
        except ValueError:
            said = "" if self.secret else f" is {value!r}, which"
            return Problem(self.name, f"{self.name}{said} is not {self.allowed}.", f"Set it to {self.allowed}.")
        return None


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A type of settings: its name in a sentence, and how a value of it is read."""

    name: str
    parse: Callable[[Any], T]


def _integer(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(value)  # noqa: TRY004  (one kind of error for a wrong value)
    return value


def _number(value: Any) -> float:
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(value)
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004  (one kind of error for a wrong value)
    return value


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = _text(value).strip().lower()
    if word not in TRUE + FALSE:
        raise ValueError(value)
    return word in TRUE


def _folder(value: Any) -> Path:
    if not isinstance(value, Path) and not _text(value).strip():
        raise ValueError(value)
    return Path(value).resolve()


def _counts(value: Any) -> Mapping[str, int]:
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): _integer(number.strip()) for name, _, number in pairs}
    if not isinstance(value, Mapping) or not all(1 <= _integer(number) <= 1000 for number in value.values()):
        raise ValueError(value)
    return {_text(name): _integer(number) for name, number in value.items()}


def _credentials(value: Any) -> str:
    if _text(value) and ":" not in value:
        raise ValueError(value)
    return str(value)


INTEGER = Kind("a whole number", _integer)
NUMBER = Kind("a number", _number)
TEXT = Kind("text", _text)
BOOLEAN = Kind("yes or no", _boolean)
FOLDER = Kind("a folder", _folder)
COUNTS = Kind("a list of name=number, each from 1 to 1000", _counts)
CREDENTIALS = Kind("user:password", _credentials)


def _data_dir() -> Path:
    return Path(getattr(django_settings, "BASE_DIR", Path.cwd())).resolve() / "var"


class Conf:
    """The declarations. `conf` is the one instance; each attribute is the setting's value as it is now."""

    DATA_DIR = Setting(
        FOLDER,
        _data_dir,
        "Folder for what Handbell itself writes: the embedded broker's data, locks, generated passwords.",
        shown="`BASE_DIR / 'var'`",
    )
    QUEUES = Setting(
        TEXT,
        "handbell.queues.QUEUES",
        "The table of queues: the import path of a tuple of `Queue`.",
        shown="`handbell.queues.QUEUES`",
    )
    CONCURRENCY: "Setting[Mapping[str, int]]" = Setting(
        COUNTS,
        dict,
        "Processes (or threads) of workers on this machine, by queue, instead of those in the table: `celery=4,io=32`.",
        shown="as in the table",
    )
    LEASE_SECONDS = Setting(
        INTEGER,
        15,
        "How long a worker on another machine, or a frozen one, may be silent before its work is given to others.",
        minimum=3,
        maximum=86_400,
    )
    STOP_SECONDS = Setting(
        INTEGER,
        4,
        "When a worker is told to stop, what it runs may go on for this long. Then plain tasks are given back to run "
        "elsewhere, and launches are ended and recorded as lost.",
        minimum=0,
        maximum=86_400,
    )
    SERIAL_LANES = Setting(
        INTEGER,
        4,  # one worker drains them in turn: more lanes are for more workers
        "Lanes of a new database; `manage.py handbell lanes resize` changes their number later.",
        minimum=1,
        maximum=1024,
    )
    SERIAL_IDLE_SECONDS = Setting(
        INTEGER,
        30,
        "PostgreSQL takes a lane from a worker that is silent for this long in the middle of a batch.",
        minimum=1,
        maximum=3600,
    )
    SERIAL_TIME_LIMIT_SECONDS = Setting(
        NUMBER,
        20.0,  # less than SERIAL_IDLE_SECONDS, so that the operation fails before the database ends its transaction
        "How long an operation may take before it fails with SoftTimeLimitExceeded, unless its task or Celery's "
        "settings say otherwise. Five seconds later its process is ended.",
        minimum=0.1,
        maximum=86_400,
    )
    SERIAL_UNKNOWN_TASKS = Setting(
        TEXT,
        "fail",
        "What happens to an operation whose task this deployment does not have: `fail`, or `wait` for a newer worker.",
        choices=("fail", "wait"),
    )
    UNRECORDED_CALLS = Setting(
        TEXT,
        "run",
        "What a worker does with a message whose call is not recorded in the ledger, as other programs send them: "
        "`run` or `refuse`. With the latter, calls run with what is recorded, whatever their messages say, and tasks "
        "with `ignore_result` cannot be called.",
        choices=("run", "refuse"),
    )
    CHUNK_SECONDS = Setting(
        NUMBER,
        1.0,  # claiming and completing one takes about 20 ms, so this leaves 98 % for the items
        "How long a chunk of a job should take, unless the job says otherwise.",
        minimum=0.001,
        maximum=3600,
    )
    LAUNCH_CONCURRENCY = Setting(
        INTEGER,
        32,
        "Launches that run at the same time, per worker of the queue `isolated`.",
        minimum=1,
        maximum=5000,
    )
    LAUNCH_MEMORY_MB = Setting(
        INTEGER,
        512,
        "What a launch and everything it starts may use in MiB, unless its task says otherwise.",
        minimum=16,
        maximum=16_777_216,
    )
    LAUNCH_CGROUPS = Setting(
        BOOLEAN,
        True,
        "Each launch gets a control group of its own (Linux, cgroup v2), where the worker may make one: nothing that "
        "it starts can hide then. `manage.py handbell status` says whether that is so.",
        shown="yes",
    )
    LAUNCH_OUTPUT_KB = Setting(
        INTEGER,
        64,
        "How much is kept of what a launch prints, in KiB, of its standard output and its standard error each.",
        minimum=1,
        maximum=16_384,
    )
    ARGUMENTS_MB = Setting(
        NUMBER,
        8.0,  # brokers take no more than 16 MiB in a message, and every process that touches a call holds it in memory
        "How large the arguments of one call may be, as JSON, in MiB. Larger ones are refused at the call: store what "
        "is large, and pass its key.",
        minimum=0.001,
        maximum=1024,
    )
    FLOWER_BASIC_AUTH = Setting(
        CREDENTIALS,
        "",
        "Flower's `user:password` under `handbell up`. Flower listens on 127.0.0.1 only.",
        shown="`admin` and a generated password",
        secret=True,
    )


conf = Conf()


def declared_settings() -> Iterator["Setting[Any]"]:
    """Every setting, in the order of the declarations."""
    return (setting for setting in vars(Conf).values() if isinstance(setting, Setting))


def settings_from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The settings that are set by environment variables of the same names, for a settings module:

    `globals().update(handbell.settings_from_environment())`
    """
    return {
        setting.name: environment[setting.name]
        for setting in declared_settings()
        if environment.get(setting.name, "").strip()
    }


def unknown_settings() -> list[Problem]:
    """Names that begin as a setting of ours does, and are none."""
    known = [setting.name for setting in declared_settings()]
    unknown = sorted(name for name in dir(django_settings) if name.startswith(PREFIX) and name not in known)
    endings, found = [name.removeprefix(PREFIX) for name in known], []
    for name in unknown:
        fix = "Remove it; `manage.py handbell settings` lists them all."
        for similar in get_close_matches(name.removeprefix(PREFIX), endings, n=1):
            fix = f"Did you mean {PREFIX}{similar}?"
        found.append(Problem(name, f"{name} is no setting of Handbell.", fix))
    return found


def problems() -> list[Problem]:
    """Whatever is wrong with the settings, one by one."""
    return [problem for setting in declared_settings() if (problem := setting.problem()) is not None]
