"""The outside world: stores, the registry, engines, settings. Nothing here knows an asset."""
