"""The nightly deletion of old results, as an entry that the admin can edit; made once, never overwritten."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TASK = "tasks_app.tasks.delete_old_results"


def add_entry(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    schedules = apps.get_model("django_celery_beat", "CrontabSchedule").objects
    entries = apps.get_model("django_celery_beat", "PeriodicTask").objects
    nightly, _ = schedules.get_or_create(
        minute="15", hour="3", day_of_week="*", day_of_month="*", month_of_year="*", timezone="UTC"
    )
    entries.get_or_create(
        name="Delete old results",
        defaults={
            "task": TASK,
            "crontab": nightly,
            "description": "Results older than RESULTS_KEEP_DAYS days are deleted.",
        },
    )


def remove_entry(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(task=TASK).delete()


class Migration(migrations.Migration):
    dependencies = [("tasks_app", "0001_initial"), ("django_celery_beat", "0019_alter_periodictasks_options")]
    operations = [migrations.RunPython(add_entry, remove_entry)]
