"""Telling at once, in the process that wrote live results. What cannot be told there is left to the publisher."""

from __future__ import annotations

import logging
from collections.abc import Callable

from monitoring_assets.manifest import Manifest
from monitoring_assets.onboarding import utc_now
from monitoring_assets.version import Clock
from resources.settings import Settings


def alerting(settings: Settings, clock: Clock = utc_now) -> Callable[[Manifest], None]:
    """A function that publishes one version. It raises nothing: the data is done, whatever goes wrong with alerts."""

    def alert(manifest: Manifest) -> None:
        from monitoring_assets.alerting.publisher import publish_version  # noqa: PLC0415

        log = logging.getLogger(__name__)
        try:
            waiting = publish_version(settings, manifest, clock).waiting
        except Exception:
            log.exception("the alerts of %s %s are left to the publisher", manifest.model, manifest.version)
        else:
            if waiting:
                log.warning("the alerts of %s %s wait: %s", manifest.model, manifest.version, waiting)

    return alert
