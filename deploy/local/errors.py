from __future__ import annotations


class StackError(Exception):
    """A failure of the local stack. Its message names the thing, the value and the remedy."""
