"""The guard against mass deletions: an emptied folder, a truncated table or a wrong prefix looks exactly like a wish to delete.

``Ledger.swap`` applies it to every deletion, whichever path announced it.
"""

from __future__ import annotations

MASS = 20  # deletions that are always believed
MASS_SHARE = 0.5  # of a source's live documents: more deletions need a confirmation
WAVE_SECONDS = 3600.0  # deletions of this time count together, because a wave comes in many batches
REMEDY = "restore the missing documents, or confirm with `python -m consumers reconcile --confirm`"


def is_mass(gone: int, known: int) -> bool:
    """Return whether ``gone`` of ``known`` documents are so many that an accident is likelier than a wish."""
    return gone > MASS and gone > MASS_SHARE * known
