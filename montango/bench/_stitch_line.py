"""A line of the report of ``montango bench stitch``."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Line:
    """What, our figure, its unit, and the limit (NaN: none)."""

    what: str
    value: float
    unit: str = ""
    limit: float = math.nan
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        if math.isnan(self.limit):
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        text = f"  {self.what:<60} {self.value:10.4g} {self.unit:<8}"
        if math.isnan(self.limit):
            return text
        ratio = f", ratio {self.value / self.limit:.2f}" if self.limit else ""
        return f"{text} limit {self.limit:g}{ratio}{'' if self.holds else '   NOT KEPT'}"


def printed(title: str, lines: list[Line]) -> list[Line]:
    """Print lines under a title, and return them."""
    print(f"\n{title}:", flush=True)
    for line in lines:
        print(line, flush=True)
    return lines
