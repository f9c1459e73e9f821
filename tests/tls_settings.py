"""The project's settings, and the one that has the host name of RabbitMQ compared with its certificate."""

from project.settings import *  # noqa: F403

CELERY_BROKER_USE_SSL = {"server_hostname": None}
