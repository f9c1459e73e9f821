"""The tables."""

from tasks_app.models.call import Call, CallBell, Worker
from tasks_app.models.counter import Counter, PlainCounter
from tasks_app.models.entry import Entry
from tasks_app.models.job import Block, Chunk, Failure, Job
from tasks_app.models.lane import Doorbell, Lane, LaneCount, lane_of
from tasks_app.models.launch import Launch, LaunchBell
from tasks_app.models.operation import Operation
from tasks_app.models.run import Run
from tasks_app.models.score import Score
from tasks_app.models.serial import SerialModel, outside_lanes

__all__ = [
    "Block",
    "Call",
    "CallBell",
    "Chunk",
    "Counter",
    "Doorbell",
    "Entry",
    "Failure",
    "Job",
    "Lane",
    "LaneCount",
    "Launch",
    "LaunchBell",
    "Operation",
    "PlainCounter",
    "Run",
    "Score",
    "SerialModel",
    "Worker",
    "lane_of",
    "outside_lanes",
]
