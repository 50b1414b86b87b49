"""Dagster in the local stack: the settings of its instance, and its processes."""
