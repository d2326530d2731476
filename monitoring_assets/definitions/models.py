"""The `models` code location: an asset group for every model version in the registry."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import dagster as dg

from monitoring_assets.assets.factory import RESOURCE, Work, group
from monitoring_assets.fleet import snapshot
from resources.settings import Settings

warnings.filterwarnings("ignore", category=dg.PreviewWarning)


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions of the registry as it is now; a version with a bad manifest is left out, and logged."""
    settings = Settings.from_environment(os.environ, Path.cwd())
    found = snapshot(settings)
    for where, reason in found.quarantined.items():
        logging.getLogger(__name__).warning("%s is left out: %s", where, reason)
    assets = [asset for version in found.versions for asset in group(version)]
    return dg.Definitions(assets=assets, resources={RESOURCE: Work(settings)}, executor=dg.in_process_executor)
