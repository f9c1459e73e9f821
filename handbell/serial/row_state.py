"""What a row's fields are before an operation runs, to undo it or to see what it has changed."""

import copy
from functools import cache
from typing import Any

from django.db import models

from handbell.models import SerialModel

_SCALAR_FIELDS = (
    models.AutoField,
    models.BooleanField,
    models.CharField,
    models.DateField,
    models.DecimalField,
    models.DurationField,
    models.FloatField,
    models.ForeignKey,
    models.IntegerField,
    models.TextField,
    models.TimeField,
    models.UUIDField,
)


def snapshot(row: SerialModel) -> dict[str, Any]:
    """The row's attributes as they are; values that can be changed in place are copied."""
    before = dict(row.__dict__)
    for name in _mutable_fields(type(row)):
        if name in before:
            before[name] = copy.deepcopy(before[name])
    return before


def restore(row: SerialModel, before: dict[str, Any]) -> None:
    row.__dict__.clear()
    row.__dict__.update(before)
    row._state.fields_cache.clear()  # noqa: SLF001


def drop_caches(row: SerialModel, before: dict[str, Any]) -> None:
    """Forget what a function has kept on the row for itself, such as cached properties: it is not for the next one."""
    row._state.fields_cache.clear()  # noqa: SLF001
    if len(row.__dict__) > len(before):
        for name in row.__dict__.keys() - before.keys():
            del row.__dict__[name]


@cache
def _mutable_fields(model: type[models.Model]) -> tuple[str, ...]:
    return tuple(
        field.attname
        for field in model._meta.concrete_fields
        if not (isinstance(field, _SCALAR_FIELDS) and type(field).__module__.startswith("django.db.models."))
    )


@cache
def auto_now_fields(model: type[models.Model]) -> tuple["models.Field[Any, Any]", ...]:
    return tuple(field for field in model._meta.concrete_fields if getattr(field, "auto_now", False))
