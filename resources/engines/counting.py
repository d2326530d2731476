"""Placeholder while the engine is being written: correct, slow."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Any
import numpy as np


@dataclass(frozen=True)
class NumericColumn:
    name: str
    points: tuple
    edges: tuple
    specials: tuple
    unseen: bool
    tails: Any


@dataclass(frozen=True)
class CategoricalColumn:
    name: str
    categories: tuple
    specials: tuple


@dataclass(frozen=True)
class SegmentColumn:
    name: str
    values: tuple


@dataclass(frozen=True)
class CountPlan:
    columns: tuple
    score: str | None
    score_range: tuple
    segments: tuple


@dataclass
class Counts:
    rows: int
    bins: dict
    score_sums: dict
    tails: dict
    score_cells: Any
    invalid_scores: int
