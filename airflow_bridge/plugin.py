"""What Airflow loads by the entry point ``airflow.plugins``, in every component."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from airflow_bridge.timetable import PartitionTimetable


class ScorewatchPlugin(AirflowPlugin):
    """Makes the timetable known: without it Airflow cannot read a DAG of the bridge back from its database."""

    name = "scorewatch"
    timetables = (PartitionTimetable,)
