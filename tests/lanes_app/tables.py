"""Models in a registry of their own, with what Counter has not: automatic keys, JSON, foreign keys, narrow columns."""

from functools import cached_property
from typing import Any

from celery.result import AsyncResult
from django.apps import apps
from django.db import connection, models
from django.db.models.signals import post_migrate
from django.test.utils import isolate_apps

from handbell.models import LaneCount, Operation, SerialModel, lane_of, outside_lanes

with isolate_apps("tests.lanes_app"):

    class Shelf(models.Model):
        """A parent of serial rows, and itself a row like any other."""

        name = models.CharField(max_length=100, unique=True)

        class Meta:
            app_label = "lanes_app"

    class Document(SerialModel):
        title = models.CharField(max_length=20, default="")
        words = models.JSONField(default=list)
        size = models.SmallIntegerField(default=0)
        changed_at = models.DateTimeField(auto_now=True)
        shelf = models.ForeignKey(Shelf, models.CASCADE, null=True, related_name="documents")
        owner = models.ForeignKey(Shelf, models.SET_NULL, null=True, related_name="owned")

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

        @cached_property
        def doubled(self) -> int:
            return self.size * 2

    class Draft(Document):
        """The same rows as another class."""

        class Meta(Document.Meta):
            app_label = "lanes_app"
            proxy = True

    class Tag(SerialModel):
        """A second serial model, with a key of text."""

        name = models.CharField(primary_key=True, max_length=10)
        uses = models.IntegerField(default=0)

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"

    class Box(SerialModel):
        """A serial model without a task."""

        class Meta(SerialModel.Meta):
            app_label = "lanes_app"


MODELS = (Shelf, Document, Tag, Box)


def make_tables(**kwargs: Any) -> None:
    """Whenever a test database is made, or emptied after a test that commits: have the tables, with nothing in them."""
    existing = connection.introspection.table_names()
    for model in reversed(MODELS):
        if model._meta.db_table in existing:
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM {model._meta.db_table}")
    with connection.schema_editor() as editor:
        for model in MODELS:
            if model._meta.db_table not in existing:
                editor.create_model(model)


post_migrate.connect(make_tables, sender=apps.get_app_config("handbell"))


def make(model: type[models.Model], **values: Any) -> Any:
    """A row that is there before a test begins."""
    with outside_lanes():
        return model._base_manager.create(**values)


def operation(result: AsyncResult[Any]) -> Operation:
    return Operation.objects.get(task_id=result.id)


def state(result: AsyncResult[Any]) -> str:
    """Its state, which may be one that Celery's types do not know."""
    return str(result.state)


def lane(key: str) -> int:
    """The lane that operations with this key wait in."""
    return lane_of(key, LaneCount.objects.get().count)
