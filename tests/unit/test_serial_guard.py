"""OutsideLane: whatever the ORM offers for writing, rows of a serial model are not written outside their lane."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import models, transaction
from django.test.utils import isolate_apps

from handbell import serial_task
from handbell.errors import OutsideLane
from handbell.models import LaneCount, SerialModel, outside_lanes
from handbell.models.serial import SerialQuerySet, in_lane
from tasks_app.models import Counter
from tests.lanes_app.tables import Box, Document, Draft, Shelf, Tag, lane, make

pytestmark = pytest.mark.django_db


@serial_task(on=Tag)
def paint(tag: Tag) -> None: ...


@pytest.fixture
def shelf() -> Shelf:
    made: Shelf = make(Shelf, name="top")
    return made


@pytest.fixture
def document(shelf: Shelf) -> Document:
    made: Document = make(Document, title="as it was", shelf=shelf, owner=shelf)
    return made


def everything() -> list[Any]:
    return [list(model._base_manager.order_by("pk").values()) for model in (Shelf, Document, Tag, Box)]


rows = Document.objects
ONE_ROW: dict[str, Callable[[Document], Any]] = {
    "save": lambda document: document.save(),
    "save some fields": lambda document: document.save(update_fields=["title"]),
    "force_insert": lambda document: document.save(force_insert=True),
    "delete": lambda document: document.delete(),
    "save a new one": lambda document: Document().save(),
    "create": lambda document: rows.create(),
    "create with a key": lambda document: rows.create(pk=4711),
    "get_or_create": lambda document: rows.get_or_create(pk=4711),
    "update_or_create, there": lambda document: rows.update_or_create(pk=document.pk, defaults={"title": "new"}),
    "update_or_create, missing": lambda document: rows.update_or_create(pk=4711),
}
MANY_ROWS: dict[str, Callable[[Document], Any]] = {
    "update": lambda document: rows.update(title="new"),
    "update of a filter": lambda document: rows.filter(pk=document.pk).update(title="new"),
    "delete": lambda document: rows.all().delete(),
    "delete of a filter": lambda document: rows.filter(pk=document.pk).delete(),
    "_raw_delete": lambda document: rows.all()._raw_delete(rows.db),
    "bulk_create": lambda document: rows.bulk_create([Document()]),
    "bulk_update": lambda document: rows.bulk_update([document], ["title"]),
    "the base manager": lambda document: Document._base_manager.update(title="new"),
    "the default manager": lambda document: Document._default_manager.filter(pk=document.pk).delete(),
}
ASYNC: dict[str, Callable[[Document], Any]] = {
    "asave": lambda document: document.asave(),
    "adelete": lambda document: document.adelete(),
    "acreate": lambda document: rows.acreate(),
    "aget_or_create": lambda document: rows.aget_or_create(pk=4711),
    "aupdate_or_create": lambda document: rows.aupdate_or_create(pk=4711),
    "aupdate": lambda document: rows.aupdate(title="new"),
    "adelete of many": lambda document: rows.all().adelete(),
    "abulk_create": lambda document: rows.abulk_create([Document()]),
    "abulk_update": lambda document: rows.abulk_update([document], ["title"]),
}
FROM_A_PARENT: dict[str, Callable[[Document, Any], Any]] = {
    "add": lambda document, related: related.add(document),
    "add, one by one": lambda document, related: related.add(document, bulk=False),
    "remove": lambda document, related: related.remove(document),
    "remove, one by one": lambda document, related: related.remove(document, bulk=False),
    "clear": lambda document, related: related.clear(),
    "clear, one by one": lambda document, related: related.clear(bulk=False),
    "set": lambda document, related: related.set([]),
    "create": lambda document, related: related.create(),
    "get_or_create": lambda document, related: related.get_or_create(title="new"),
    "update_or_create": lambda document, related: related.update_or_create(title="new"),
    "update": lambda document, related: related.update(title="new"),
    "delete": lambda document, related: related.all().delete(),
    "bulk_create": lambda document, related: related.bulk_create([Document()]),
    "aadd": lambda document, related: async_to_sync(related.aadd)(document),
    "aclear": lambda document, related: async_to_sync(related.aclear)(),
    "acreate": lambda document, related: async_to_sync(related.acreate)(),
}


def is_refused(write: Callable[[], Any]) -> str:
    """`write()` is refused and leaves everything as it was; the sentence it is refused with."""
    before = everything()
    with pytest.raises(OutsideLane) as refused, transaction.atomic():
        write()
    assert everything() == before
    return str(refused.value)


@pytest.mark.parametrize("way", ONE_ROW)
def test_writes_of_one_row_are_refused(way: str, document: Document) -> None:
    document.title = "new"

    assert "outside its lane: only lane" in is_refused(lambda: ONE_ROW[way](document))


@pytest.mark.parametrize("way", MANY_ROWS)
def test_writes_of_many_rows_are_refused(way: str, document: Document) -> None:
    document.title = "new"

    assert "of many Document rows at once: each row is changed by its own lane only" in is_refused(
        lambda: MANY_ROWS[way](document)
    )


@pytest.mark.parametrize("way", ASYNC)
def test_async_writes_are_refused(way: str, document: Document) -> None:
    document.title = "new"

    async def write() -> None:
        await ASYNC[way](document)

    is_refused(async_to_sync(write))


@pytest.mark.parametrize("way", FROM_A_PARENT)
@pytest.mark.parametrize("name", ["documents", "owned"])
def test_writes_through_a_parent_are_refused(way: str, name: str, shelf: Shelf, document: Document) -> None:
    other = make(Shelf, name="other")
    target = other if way.startswith(("add", "aadd")) else shelf

    is_refused(lambda: FROM_A_PARENT[way](document, getattr(target, name)))


@pytest.mark.parametrize(
    "delete", [lambda shelf: shelf.delete(), lambda shelf: Shelf.objects.filter(pk=shelf.pk).delete()]
)
@pytest.mark.parametrize("field", ["shelf", "owner"])
def test_a_parent_is_not_deleted_from_under_its_rows(delete: Callable[[Shelf], Any], field: str, shelf: Shelf) -> None:
    """ON DELETE CASCADE would delete rows, SET NULL would change them."""
    make(Document, **{field: shelf})

    is_refused(lambda: delete(shelf))


def test_a_parent_that_no_row_points_to_is_deleted_like_any_row(shelf: Shelf) -> None:
    shelf.delete()

    assert not Shelf.objects.exists()


def test_reading_is_free(document: Document) -> None:
    assert rows.filter(title="as it was").exists()
    assert rows.select_for_update().get().shelf == document.shelf
    assert list(rows.values_list("title", flat=True)) == ["as it was"]
    document.refresh_from_db()
    assert rows.get_or_create(pk=document.pk) == (document, False)


def test_the_sentence_names_the_lane_and_the_call_to_make_instead() -> None:
    tag = make(Tag, name="red")
    number = lane(Tag.key_of("red"))

    said = is_refused(tag.save)
    assert said.startswith(f"save() of Tag 'red' outside its lane: only lane {number} changes this row. Call ")
    assert "paint.delay('red', …)" in said
    assert said.endswith(" In migrations and fixtures, use `with outside_lanes():`.")
    assert "paint.delay(key, …)" in is_refused(lambda: Tag.objects.update(uses=0))
    assert "Declare a task with @serial_task(on=Box) and call its delay()." in is_refused(Box().save)


def test_outside_lanes_lets_everything_through_and_ends_with_its_block(document: Document, shelf: Shelf) -> None:
    with outside_lanes():
        document.save()
        rows.update(title="new")
        rows.bulk_create([Document(), Document()])
        shelf.delete()
        rows.all().delete()
        make(Document)

    is_refused(rows.get().save)


def test_in_its_lane_a_row_is_saved_and_its_version_counts(document: Document) -> None:
    count = LaneCount.objects.get().count
    number = lane(Document.key_of(document.pk))
    document.title = "new"
    with in_lane(number, count):
        document.save(update_fields=["title"])
    with in_lane((number + 1) % count, count):
        is_refused(document.save)
        is_refused(document.delete)

    document.refresh_from_db()
    assert (document.title, document.version) == ("new", 1)


def test_a_row_that_gets_its_key_by_being_made_may_be_made_in_any_lane() -> None:
    with in_lane(3, 16):
        Document.objects.create(title="new")

    assert Document.objects.get().title == "new"


def test_a_fixture_can_be_loaded(tmp_path: Path) -> None:
    row = {"model": "tasks_app.counter", "pk": "loaded", "fields": {"value": 3, "version": 7}}
    fixture = tmp_path / "counters.json"
    fixture.write_text(json.dumps([row]))

    call_command("loaddata", str(fixture), verbosity=0)

    assert list(Counter.objects.values_list("pk", "value", "version")) == [("loaded", 3, 7)]


@isolate_apps("tests.lanes_app")
def test_a_model_whose_writes_could_get_past_its_lanes_is_found_by_check() -> None:
    class Fine(SerialModel):
        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    class OwnMeta(SerialModel):
        class Meta:
            app_label = "lanes_app"

    class OwnManager(SerialModel):
        objects = models.Manager()

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    class SecondManager(SerialModel):
        others = models.Manager()

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    class FineManagers(SerialModel):
        objects = SerialQuerySet.as_manager()
        others = models.Manager.from_queryset(SerialQuerySet)()

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    class Child(Fine):
        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    def errors(model: type[models.Model]) -> list[str]:
        return [found.id for found in model.check() if found.id and found.id.startswith("handbell")]

    assert [errors(model) for model in (Fine, OwnMeta, FineManagers, Counter, Document, Draft)] == [[]] * 6
    assert [errors(model) for model in (OwnManager, SecondManager)] == [["handbell.E010"]] * 2
    assert errors(Child) == ["handbell.E011"]
