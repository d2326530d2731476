"""Sensors: what happens in the registry and the lake becomes groups, runs and results."""
