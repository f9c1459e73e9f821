"""Imported by the process that subprocesses of chunks are forked from: it loads Django and all tasks, once.

Connections that this has opened are closed (Django's own checks open one on SQLite), or every child would inherit them.
"""

import django
from celery import current_app
from django.apps import apps
from django.db import connections

if not apps.ready:
    django.setup()
current_app.loader.import_default_modules()
current_app.finalize()
connections.close_all()
