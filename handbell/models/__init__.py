"""The ledger: the tables of every kind of work."""

from handbell.models.call import Call
from handbell.models.doorbell import Doorbell
from handbell.models.job import Block, Chunk, ItemFailure, JobRow
from handbell.models.lane import Lane, LaneCount, lane_of
from handbell.models.launch import Launch
from handbell.models.operation import Operation
from handbell.models.owner import Owner
from handbell.models.serial import SerialModel, outside_lanes
from handbell.models.sweeper_turn import SweeperTurn

__all__ = [
    "Block",
    "Call",
    "Chunk",
    "Doorbell",
    "ItemFailure",
    "JobRow",
    "Lane",
    "LaneCount",
    "Launch",
    "Operation",
    "Owner",
    "SerialModel",
    "SweeperTurn",
    "lane_of",
    "outside_lanes",
]
