"""What the subcommands of `manage.py handbell` have in common."""

import argparse
from typing import Any, ClassVar

from django.core.management.base import OutputWrapper


class Subcommand:
    """One subcommand: its help, its arguments, and what it does."""

    help: ClassVar[str]

    def __init__(self, stdout: OutputWrapper) -> None:
        self.stdout = stdout

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what it takes."""

    def handle(self, **options: Any) -> None:
        raise NotImplementedError


class ListingSubcommand(Subcommand):
    """A subcommand that lists rows unless it is given an action: `jobs`, `jobs list` and `jobs --limit 5` all list."""

    def add_list_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare what the list takes, apart from `--json`."""

    def add_list(self, parser: argparse.ArgumentParser, text: str) -> Any:
        """Declare the list; what further actions are added to is returned."""
        self._add_all_list_options(parser)
        actions = parser.add_subparsers(dest="action", metavar="ACTION")
        listing = actions.add_parser("list", help=f"{text} (this is what happens without an action)")
        for option in self._add_all_list_options(listing):
            option.default = argparse.SUPPRESS  # or it would overwrite what stands before `list`
        add_django_options(listing)
        return actions

    def add_action(self, actions: Any, name: str, text: str) -> argparse.ArgumentParser:
        """Declare an action besides the list."""
        action: argparse.ArgumentParser = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        add_django_options(action)
        return action

    def _add_all_list_options(self, parser: argparse.ArgumentParser) -> list[argparse.Action]:
        before = len(parser._actions)  # noqa: SLF001  (argparse does not say otherwise what was added)
        self.add_list_options(parser)
        add_json_option(parser)
        return parser._actions[before:]  # noqa: SLF001


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_limit_option(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--limit", type=_positive, default=default, metavar="N", help=f"how many at most (default {default})"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def add_django_options(parser: argparse.ArgumentParser) -> None:
    """What Django's commands take, wherever on the line it stands; `manage.py handbell --help` describes it."""
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], **hidden)
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name, **hidden)
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(name, action="store_true", **hidden)
