"""The bundle, used as Airflow's components use it. Called by test_bundle.py."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

from airflow_bridge.bundle import ScorewatchBundle


def call(
    method: str, name: str, version: str | None = None, environ: dict[str, str] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Calls `initialize` or `refresh` of a new bundle. What it raises is an answer."""
    bundle = ScorewatchBundle(name=name, version=version, **kwargs)
    raised = None
    try:
        with patch.dict(os.environ, environ or {}):
            getattr(bundle, method)()
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    current = bundle.get_current_version()
    return {"raised": raised, "version": current and current.version, "path": str(bundle.path)}
