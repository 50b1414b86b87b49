"""Dagster's entry points: assets, checks, sensors and schedules. Each takes its input, makes one call and reports the result."""

import warnings

import dagster as dg

# Partitioned checks are in preview, and backfill policies and code references in beta. The lock pins Dagster, and a snapshot of
# every asset and check (tests/assets) shows a change, so a warning at each load would only hide others.
for _category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=_category)
