"""Our settings, with the further databases that the library's tests expect: the same one under other names."""

from project.settings import *  # noqa: F403
from project.settings import DATABASES

for _name in ("secondary", "read-only"):
    DATABASES[_name] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
