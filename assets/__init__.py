"""Dagster's doors: assets, checks, sensors and schedules. Each takes, calls and reports."""
