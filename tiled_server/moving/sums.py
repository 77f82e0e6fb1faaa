"""Sums of rows, to compare tables of two databases that keep the same values in their own ways.

A sum is of the hashes of the rows, whatever their order: two tables with the same sum and count are equal.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

TAKEN_OUT: Final = ("tiled_access_tags", "tiled_specs")
"""Fields of a start document that Tiled's writer takes out: they become the node's own."""
_BYTES: Final = 16
_MODULUS: Final = 1 << (8 * _BYTES)


@dataclass(frozen=True, slots=True)
class Sum:
    """What a table has.

    Attributes
    ----------
    rows
        Number of its rows.
    value
        Sum of the 128-bit BLAKE2b hashes of its rows, modulo 2^128.
    """

    rows: int = 0
    value: int = 0

    def plus(self, rows: Iterable[bytes]) -> Sum:
        """Return the sum with more rows, each as bytes."""
        count, value = self.rows, self.value
        for row in rows:
            count += 1
            value += int.from_bytes(hashlib.blake2b(row, digest_size=_BYTES).digest())
        return Sum(count, value % _MODULUS)


@dataclass(frozen=True, slots=True)
class Compared:
    """One table, as it is in the one database and in the other."""

    name: str
    source: Sum
    target: Sum

    @property
    def equal(self) -> bool:
        """Whether the same rows are in both."""
        return self.source == self.target

    def __str__(self) -> str:
        if self.equal:
            return f"{self.name}: {self.source.rows} rows, equal"
        if self.source.rows != self.target.rows:
            return f"{self.name}: {self.source.rows} rows here, {self.target.rows} there"
        return f"{self.name}: {self.source.rows} rows, of which some differ"


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """Return a row of plain values as bytes: the same for what databases keep differently."""
    return json.dumps(plain(dict(row)), sort_keys=True, separators=(",", ":")).encode()


def values_bytes(columns: Sequence[Sequence[Any]]) -> Iterable[bytes]:
    """Yield rows of columns as bytes; what is no number counts as nothing, as SQLite keeps it."""
    for row in zip(*columns, strict=True):
        yield repr(tuple(None if isinstance(one, float) and math.isnan(one) else one for one in row)).encode()


def plain(value: Any) -> Any:
    """Return a value as JSON has it, in one form.

    Numbers lose their type (a database of JSON documents keeps 1e5 as 100000), enumerations are their values,
    times are ISO 8601.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return int(value) if value.is_integer() else value
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
