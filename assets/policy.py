"""The policy of the asset graph, applied to every asset of both code locations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dagster as dg

OWNERS = ("team:data-platform",)

# Run tags of every job. A run whose process or code location is killed starts again at the step that did not end, as the
# instance's ``run_retries`` allows. A failed step does not start again this way: ``resources.open_for_run`` decides about it.
RUN_RETRIES = {
    "dagster/max_retries": "3",
    "dagster/retry_strategy": "FROM_FAILURE",
    "dagster/retry_on_asset_or_op_failure": "false",
}


def govern(assets: Iterable[dg.AssetsDefinition | dg.AssetSpec]) -> list[Any]:
    """Give every asset its owners and a reference to its code.

    Raises DagsterInvalidDefinitionError for an asset that the UI could not explain: it needs a description, a group and kinds.
    """
    return list(dg.with_source_code_references([*dg.map_asset_specs(_owned, assets)]))


def explain(definitions: Iterable[dg.AssetChecksDefinition]) -> list[dg.AssetChecksDefinition]:
    """Return the asset checks. Raises DagsterInvalidDefinitionError for one without a description."""
    checks = list(definitions)
    for spec in (spec for each in checks for spec in each.check_specs):
        if not spec.description:
            raise dg.DagsterInvalidDefinitionError(
                f"asset check {spec.key.to_user_string()} has no description: describe the fault that it finds"
            )
    return checks


def _owned(spec: dg.AssetSpec) -> dg.AssetSpec:
    missing = [name for name in ("description", "group_name", "kinds") if not getattr(spec, name)]
    if missing:
        raise dg.DagsterInvalidDefinitionError(
            f"asset {spec.key.to_user_string()} has no {' and no '.join(missing)}: the UI shows them, so set them"
        )
    return spec.replace_attributes(owners=OWNERS)
