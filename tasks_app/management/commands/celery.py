"""`manage.py celery …`: Celery's own command line, with every option."""

import argparse
import sys
from typing import Any

from celery.bin.celery import celery
from django.core.management.base import BaseCommand, SystemCheckError


class Command(BaseCommand):
    help = "Celery's own command line: worker, beat, flower, inspect, control and all others, with every option."
    requires_system_checks = "__all__"

    def run_from_argv(self, argv: list[str]) -> None:
        """Hand everything after `manage.py celery` to Celery; Django's own options do not apply."""
        if argv[2:3] not in (["--help"], ["--version"], []):
            self._check_settings()
        celery.main(args=["--app=project", *argv[2:]], prog_name="manage.py celery", auto_envvar_prefix="CELERY")

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
