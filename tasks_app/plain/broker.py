"""Asking the broker whether it is there, within a time that a person would wait."""

from celery import current_app
from kombu.exceptions import OperationalError

from tasks_app.errors import BrokerUnavailable


def require_broker(seconds: int = 1) -> None:
    """Return once the broker answers.

    Raises:
        BrokerUnavailable: it does not, within about twice `seconds`.
    """
    options = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    try:
        amqp = current_app.conf.broker_url.startswith(("amqp", "pyamqp"))
        with current_app.connection_for_write(
            connect_timeout=seconds, transport_options={} if amqp else options
        ) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=seconds)
    except (OperationalError, OSError) as error:
        address = current_app.connection().as_uri()
        raise BrokerUnavailable(
            f"The broker at {address} does not answer ({str(error).rstrip('.') or type(error).__name__}). "
            "Start it with the rest of the system, or correct CELERY_BROKER_URL."
        ) from error
