"""Arrivals: which partitions have landed, which were corrected, which are overdue, and which run each of them needs.

No Dagster here: either orchestrator asks the same questions.
"""
