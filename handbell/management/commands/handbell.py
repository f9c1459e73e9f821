"""`manage.py handbell …`: everything that Handbell does from the command line."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand

from handbell.management.base import Subcommand, add_django_options
from handbell.management.calls import CallsCommand
from handbell.management.jobs import JobsCommand
from handbell.management.lanes import LanesCommand
from handbell.management.launches import LaunchesCommand
from handbell.management.output import command_errors
from handbell.management.settings import SettingsCommand
from handbell.management.status import StatusCommand
from handbell.management.up import UpCommand

SUBCOMMANDS: dict[str, type[Subcommand]] = {
    "up": UpCommand,
    "status": StatusCommand,
    "calls": CallsCommand,
    "lanes": LanesCommand,
    "jobs": JobsCommand,
    "launches": LaunchesCommand,
    "settings": SettingsCommand,
}


class Command(BaseCommand):
    help = "Run the whole system, see how it is, and look at and steer calls, lanes, jobs and launches."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
        for name, subcommand in SUBCOMMANDS.items():
            added = subparsers.add_parser(name, help=subcommand.help, description=subcommand.help)
            subcommand(self.stdout).add_arguments(added)
            add_django_options(added)

    def handle(self, *args: Any, **options: Any) -> None:
        with command_errors():
            SUBCOMMANDS[options["subcommand"]](self.stdout).handle(**options)
