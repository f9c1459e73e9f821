"""Plain Celery tasks: where their results go, and the database connections they keep."""
