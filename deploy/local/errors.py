from __future__ import annotations


class StackError(Exception):
    """Something a person has to read: what is wrong, with which value, and what to do about it."""
