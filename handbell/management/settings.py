"""`manage.py handbell settings`: every setting of Handbell, its value now, its default, and what it is for."""

import argparse
from typing import Any

from handbell.conf import declared_settings
from handbell.management.base import Subcommand, add_json_option
from handbell.management.output import print_json, print_table


class SettingsCommand(Subcommand):
    help = "List every setting of Handbell: its value now, its default, what it may be, and what it is for."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_json_option(parser)

    def handle(self, **options: Any) -> None:
        rows = [
            {
                "name": setting.name,
                "value": setting.value_shown,
                "is_set": setting.is_set,
                "default": setting.default_shown.replace("`", ""),
                "allowed": setting.allowed,
                "purpose": setting.purpose.replace("`", ""),
            }
            for setting in declared_settings()
        ]
        if options["json"]:
            print_json(self.stdout, rows)
            return
        headings = ("setting", "value now", "default", "what it is for")
        print_table(
            self.stdout,
            headings,
            (),
            ((str(row["name"]), str(row["value"]), str(row["default"]), str(row["purpose"])) for row in rows),
        )
