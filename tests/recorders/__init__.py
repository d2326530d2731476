"""PagerDuty and Datadog as far as Scorewatch speaks with them: a server that does what they do and keeps what came.

`Recorder` starts it in this process; other processes reach it at its `url` with the variables in its `environ`.
"""

from __future__ import annotations

from tests.recorders.datadog import API_KEY, DatadogRecorder
from tests.recorders.faults import Answer, Fault, Request, answer_lost, failing, held, unreachable
from tests.recorders.judge import specification
from tests.recorders.pagerduty import ROUTING_KEY, Incident, PagerDutyRecorder
from tests.recorders.server import Recorder

__all__ = [
    "API_KEY",
    "ROUTING_KEY",
    "Answer",
    "DatadogRecorder",
    "Fault",
    "Incident",
    "PagerDutyRecorder",
    "Recorder",
    "Request",
    "answer_lost",
    "failing",
    "held",
    "specification",
    "unreachable",
]
