"""Where the dashboards at Datadog are: only Datadog knows, so who makes them keeps it in the store, for incidents."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from urllib.parse import urlencode

from pydantic import TypeAdapter, ValidationError

from monitoring_assets import layout
from monitoring_assets.alerting.about import About
from resources.object_store import ObjectStore

_ADDRESSES = TypeAdapter(dict[str, str])


def keep(store: ObjectStore, addresses: Mapping[str, str]) -> str:
    """Keep the addresses of dashboards by their keys (``fleet``, ``model``); where. Raises InfrastructureError."""
    store.put(layout.dashboards(), json.dumps(addresses, indent=1, sort_keys=True).encode())
    return f"{store.uri}/{layout.dashboards()}"


def model_dashboard(store: ObjectStore) -> str | None:
    """The address of the dashboard of one model; None if none was kept. Raises InfrastructureError."""
    blob = store.get(layout.dashboards())
    try:
        return _ADDRESSES.validate_json(blob.data).get("model") if blob else None
    except ValidationError:
        # A page without the link is better than none.
        logging.getLogger(__name__).warning(
            "%s/%s cannot be read, so incidents have no link to the dashboard: run scorewatch datadog apply",
            store.uri,
            layout.dashboards(),
        )
        return None


def chosen(address: str, about: About, env: str) -> str:
    """The address of the dashboard of one model with a version chosen."""
    variables = {"env": env, "model": about.model, "model_version": about.version}
    return f"{address}?{urlencode({f'tpl_var_{name}': value for name, value in variables.items()})}"
