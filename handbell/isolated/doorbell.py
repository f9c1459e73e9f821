"""The doorbell for launches: its message runs the supervisor."""

from handbell.common.doorbell import DoorbellMessage
from handbell.queues import ISOLATED

SUPERVISE = "handbell.supervise"

launches_doorbell = DoorbellMessage("launches", SUPERVISE, (), ISOLATED)
