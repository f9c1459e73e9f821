"""Where the database and the broker are, as people are told: without passwords."""

from celery import current_app
from django.db import connection

from handbell.embedded.broker import embedded_broker


def uses_embedded_broker() -> bool:
    return bool(current_app.conf.broker_url == embedded_broker().url)


def broker_address() -> str:
    if uses_embedded_broker():
        return f"embedded Valkey in {embedded_broker().directory}, because CELERY_BROKER_URL is not set"
    return str(current_app.connection().as_uri())


def database_address() -> str:
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"SQLite at {database['NAME']}"
    return f"PostgreSQL {database['NAME']} at {database['HOST'] or 'a local socket'}:{database['PORT'] or 5432}"
