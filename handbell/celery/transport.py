"""kombu's Redis transport with priorities as RabbitMQ has them: 9 is taken first.

It is imported once a connection to Redis or Valkey is made, so without the Redis client other brokers can be used.
"""

from typing import Any

from kombu.transport import redis


class PriorityChannel(redis.Channel):
    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:
        """The list that a message goes to; Redis reads list 0 first, so priority 9 goes there.

        A message without a priority counts as 0, the lowest, as on RabbitMQ.
        """
        return int(super()._get_message_priority(message, reverse=not reverse))


class PriorityTransport(redis.Transport):
    Channel = PriorityChannel
