"""Dagster as the local stack runs it: its instance's settings and its processes."""
