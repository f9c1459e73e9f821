#!/usr/bin/env python
"""The project's command line: `manage.py handbell …`, `manage.py demo`, `manage.py celery …` and Django's own."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.management import execute_from_command_line  # noqa: PLC0415  (needs the settings)

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
