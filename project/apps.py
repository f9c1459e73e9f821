"""Registers the checks that stop a start with wrong settings."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"

    def ready(self) -> None:
        from project import checks  # noqa: F401, PLC0415  (registers itself)
