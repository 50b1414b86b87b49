"""The figures of the bench: a value with its unit, its aim, and whether the aim is reached."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

_HOLDS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Aim:
    """The limit of a value, in the value's unit."""

    sign: Literal["<=", ">=", "=="]
    limit: float

    def is_reached_by(self, value: float) -> bool:
        return bool(_HOLDS[self.sign](value, self.limit))


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value. ``n`` is the number of measurements behind it, and ``note`` states where the rest goes, or the conditions.

    ``is_required`` marks a figure whose aim is a promise about results and not about speed: a miss fails the bench.
    """

    name: str
    value: float
    unit: str = ""  # empty for a ratio or a count
    aim: Aim | None = None
    n: int = 1
    note: str = ""
    is_required: bool = False

    @property
    def is_reached(self) -> bool | None:
        """Return whether the aim is reached, or None without an aim."""
        return self.aim.is_reached_by(self.value) if self.aim else None

    @property
    def share_of_aim(self) -> float | None:
        """Return value / limit, or None without a limit to divide by."""
        return self.value / self.aim.limit if self.aim and self.aim.limit else None


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The figures of one group. ``failure`` names the error that ended it, and ``skipped`` the reason why it did not start.

    ``load_before`` and ``load_after`` are the machine's load averages of one minute.
    """

    group: str
    figures: Sequence[Figure] = ()
    seconds: float = 0.0
    load_before: float = 0.0
    load_after: float = 0.0
    failure: str = ""
    skipped: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Return whether the group ran to its end and kept every promise about results."""
        return not self.failure and all(each.is_reached is not False for each in self.figures if each.is_required)
