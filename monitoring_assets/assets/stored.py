"""Reading back what stages stored: a pointer is there, and the files that it names may not be any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl

from monitoring_assets.assets.source import first_line
from monitoring_assets.version import ModelVersion
from resources.errors import InfrastructureError, ScorewatchError


@contextmanager
def reading(version: ModelVersion, assets: str, partition: str) -> Iterator[None]:
    """Turns what is raised on lost or damaged files of ``assets`` into an InfrastructureError that names them."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ScorewatchError) as error:  # no user wrote these files
        raise InfrastructureError(
            f"{version.name}: the stored {assets} of {partition} cannot be read: {first_line(error)}. "
            f"If the store can be reached, run {assets} of that partition again with --force."
        ) from error
