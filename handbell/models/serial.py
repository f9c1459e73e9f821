"""SerialModel: rows that only their lane changes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from django.core import checks
from django.db import models
from django.db.models.signals import pre_delete

from handbell.errors import OutsideLane
from handbell.models.lane import LaneCount, lane_of

Model_co = TypeVar("Model_co", bound=models.Model, covariant=True)


@dataclass(frozen=True)
class RunningLane:
    """What runs now: an operation of this lane, out of this many, with the row it was given, if any."""

    lane: int
    count: int
    row: models.Model | None = None


_current: ContextVar[RunningLane | None] = ContextVar("current_lane", default=None)
_guard_is_off: ContextVar[bool] = ContextVar("guard_is_off", default=False)


@contextmanager
def in_lane(lane: int, count: int, row: models.Model | None = None) -> Iterator[None]:
    """While an operation of `lane` runs."""
    token = _current.set(RunningLane(lane, count, row))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def outside_lanes() -> Iterator[None]:
    """Allow writes to serial models from anywhere, for migrations and fixtures. Nothing keeps them in order."""
    token = _guard_is_off.set(True)
    try:
        yield
    finally:
        _guard_is_off.reset(token)


class SerialQuerySet(models.QuerySet[Model_co]):
    """Reads like any other; every write of many rows at once is refused, for it would reach into several lanes."""

    def update(self, **values: Any) -> int:
        # Whenever a row that serial rows may point to is deleted, Django sets to NULL what points to it, also nothing.
        relations = {field.name for field in self.model._meta.concrete_fields if field.is_relation}
        if values.keys() - relations or self.exists():
            _refuse_many(self.model, "update")
        return super().update(**values)

    def delete(self) -> tuple[int, dict[str, int]]:
        _refuse_many(self.model, "delete")
        return super().delete()

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        _refuse_many(self.model, "bulk_create")
        return super().bulk_create(objs, *args, **kwargs)

    def bulk_update(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> int:
        _refuse_many(self.model, "bulk_update")
        return super().bulk_update(objs, *args, **kwargs)

    def _raw_delete(self, using: str | None) -> int:
        _refuse_many(self.model, "delete")
        return int(super()._raw_delete(using))


SerialManager = models.Manager.from_queryset(SerialQuerySet)


class SerialModel(models.Model):
    """A base for models whose rows are changed by serial tasks (`@serial_task(on=…)`) and by nothing else.

    `version` counts the operations that have changed the row.
    """

    version = models.BigIntegerField(default=0, editable=False)

    objects = SerialManager()

    #: The serial tasks declared on this model, for the error message.
    serial_tasks: ClassVar[list[str]]

    class Meta:
        abstract = True
        base_manager_name = "objects"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.serial_tasks = []
        pre_delete.connect(_refuse_cascade, sender=cls, dispatch_uid=f"serial-{cls.__module__}-{cls.__qualname__}")

    def save_base(self, raw: bool = False, **kwargs: Any) -> None:  # type: ignore[override]
        """Save, if this is the row's lane. Fixtures (`raw`) may always."""
        current = _current.get()
        if current is not None and current.row is self:
            return  # the lane saves the row that it handed in, once, when the operation has succeeded
        if not raw:
            _require_lane(self, "save")
            if current is not None:
                self.version += 1
                if kwargs.get("update_fields") is not None:
                    kwargs["update_fields"] = {*kwargs["update_fields"], "version"}
        super().save_base(raw=raw, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        _require_lane(self, "delete")
        return super().delete(*args, **kwargs)

    @classmethod
    def key_of(cls, pk: Any) -> str:
        """The key whose lane changes the row with this primary key."""
        return f"{cls.stored_as()._meta.label_lower}:{pk}"

    @classmethod
    def stored_as(cls) -> type["SerialModel"]:
        """The model whose table the rows are in: of a proxy the one behind it, and otherwise this one."""
        return cls._meta.concrete_model or cls  # type: ignore[return-value]

    @classmethod
    def check(cls, **kwargs: Any) -> list[checks.CheckMessage]:
        found = super().check(**kwargs)
        managers: Any = (cls._base_manager, *cls._meta.managers)
        if not all(issubclass(manager._queryset_class, SerialQuerySet) for manager in managers):  # noqa: SLF001
            found.append(
                checks.Error(
                    f"{cls._meta.label} lets its rows be written outside of their lanes.",
                    hint="Let its Meta inherit from SerialModel.Meta, and its managers from SerialQuerySet.",
                    obj=cls,
                    id="handbell.E010",
                )
            )
        parents = [parent.__name__ for parent in cls._meta.all_parents if issubclass(parent, SerialModel)]
        if parents and not cls._meta.proxy:
            found.append(
                checks.Error(
                    f"{cls._meta.label} keeps a part of its rows in the table of {parents[0]}, so two lanes would "
                    "change one row.",
                    hint=f"Make {parents[0]} abstract, or {cls.__name__} a proxy.",
                    obj=cls,
                    id="handbell.E011",
                )
            )
        return found


def _require_lane(row: SerialModel, what: str) -> None:
    if _guard_is_off.get():
        return
    if row.pk is None and _current.get() is not None:
        return  # it gets its key, and so its lane, by being created
    key = type(row).key_of(row.pk)
    current = _current.get()
    if current is not None and lane_of(key, current.count) == current.lane:
        return
    count = current.count if current else LaneCount.objects.values_list("count", flat=True).get(pk=1)
    raise OutsideLane(
        f"{what}() of {type(row).__name__} {row.pk!r} outside its lane: "
        f"only lane {lane_of(key, count)} changes this row. "
        f"{_right_call(type(row), repr(row.pk))}"
    )


def _refuse_many(model: type[models.Model], what: str) -> None:
    if not _guard_is_off.get():
        raise OutsideLane(
            f"{what}() of many {model.__name__} rows at once: each row is changed by its own lane only. "
            f"{_right_call(model, 'key')}"
        )


def _right_call(model: type[models.Model], key: str) -> str:
    tasks: list[str] = getattr(model, "serial_tasks", [])
    call = " or ".join(f"{task}.delay({key}, …)" for task in tasks)
    return (
        f"Call {call}." if call else f"Declare a task with @serial_task(on={model.__name__}) and call its delay()."
    ) + " In migrations and fixtures, use `with outside_lanes():`."


def _refuse_cascade(sender: type[models.Model], instance: SerialModel, **kwargs: Any) -> None:
    """Before a row is deleted because another one is (ON DELETE CASCADE)."""
    _require_lane(instance, "delete")
