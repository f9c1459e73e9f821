"""`manage.py celery …`: Celery's own command line, with every option."""

import argparse
import os
import sys
import warnings
from typing import Any

from celery import current_app
from celery.bin.base import CLIContext
from celery.bin.beat import beat
from celery.bin.worker import worker
from celery.exceptions import SecurityWarning
from django.core.management.base import BaseCommand, SystemCheckError

from handbell.management.process_table import UNDER_UP_VARIABLE

#: How Celery's warnings about the user that a worker runs as begin. They say to use --uid, which `up` does not have:
#: its workers run as whoever runs `up`, which is root in many a container.
USER_WARNINGS = ("You're running the worker with superuser", "An entry for the specified gid or egid was not found")


class Command(BaseCommand):
    help = "Celery's own command line: worker, beat, flower, inspect, control and all others, with every option."
    requires_system_checks = "__all__"

    def run_from_argv(self, argv: list[str]) -> None:
        """Hand everything after `manage.py celery` to Celery; Django's own options do not apply."""
        if argv[2:3] not in (["--help"], ["--version"], []):
            self._check_settings()
        if UNDER_UP_VARIABLE in os.environ:
            for beginning in USER_WARNINGS:
                warnings.filterwarnings("ignore", message=beginning, category=SecurityWarning)
        name, prefix = "manage.py celery", "CELERY"
        if argv[2:3] in (["worker"], ["beat"]):
            # Run without importing the whole command line, above all Flower, which costs as much as loading a project.
            command = {"worker": worker, "beat": beat}[argv[2]]
            context = CLIContext(current_app, no_color="NO_COLOR" in os.environ, workdir=None)
            command.main(argv[3:], f"{name} {argv[2]}", obj=context, auto_envvar_prefix=f"{prefix}_{argv[2].upper()}")
        else:
            from celery.bin.celery import celery  # noqa: PLC0415

            celery.main(argv[2:], name, auto_envvar_prefix=prefix)

    def _check_settings(self) -> None:
        try:
            self.check()
        except SystemCheckError as error:
            self.stderr.write(str(error))
            sys.exit(1)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        self.run_from_argv([prog_name, subcommand, "--help"])

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="as Celery documents them")

    def handle(self, *args: Any, **options: Any) -> None:
        self.run_from_argv(["manage.py", "celery", *options["arguments"]])
