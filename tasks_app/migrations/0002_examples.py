"""What a new database begins with: the nightly deletion of old results, and a few entries to look at."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

TASK = "tasks_app.tasks.delete_old_results"
ENTRIES = {
    "The broker rings": "A message broker wakes the right process on the right machine. It is good at that, and it is "
    "not asked to remember anything. ",
    "The database remembers": "What was asked for, who is working on it and what came out stands in rows. A restart "
    "finds them where they were. ",
    "One at a time": "Work that changes shared state goes through one lane, one operation after the other. Nobody "
    "writes a lock, and whoever only reads does not wait. ",
    "All at once": "Work that shares nothing spreads over every core and every machine that has a worker. ",
    "Gone at the deadline": "Code that may hang runs in a process of its own. When its time is up, it is ended, "
    "together with whatever it started. ",
    "Pages that do not wait": "A view hands work over and answers. The numbers arrive when they are ready. ",
    "Numbers that arrive": "This entry has been visited, measured and timed, a little later than it was shown. ",
    "Every night": "Old results are deleted on a schedule that can be changed in the admin. ",
}


def add_examples(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    nightly, _ = apps.get_model("django_celery_beat", "CrontabSchedule").objects.get_or_create(
        minute="15", hour="3", day_of_week="*", day_of_month="*", month_of_year="*", timezone="UTC"
    )
    apps.get_model("django_celery_beat", "PeriodicTask").objects.get_or_create(
        name="Delete old results",
        defaults={
            "task": TASK,
            "crontab": nightly,
            "description": "Results older than RESULTS_KEEP_DAYS days are deleted.",
        },
    )
    entries = apps.get_model("tasks_app", "Entry")
    entries.objects.bulk_create(entries(title=title, body=text * 20) for title, text in ENTRIES.items())


def remove_examples(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    apps.get_model("django_celery_beat", "PeriodicTask").objects.filter(task=TASK).delete()
    apps.get_model("tasks_app", "Entry").objects.filter(title__in=ENTRIES).delete()


class Migration(migrations.Migration):
    dependencies = [("tasks_app", "0001_initial"), ("django_celery_beat", "0019_alter_periodictasks_options")]
    operations = [migrations.RunPython(add_examples, remove_examples)]
