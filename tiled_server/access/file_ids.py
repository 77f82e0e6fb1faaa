"""Names of raw files that tell nothing: neither where a file is, nor how many there are."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

_CHECK_BYTES: Final = 16
_NUMBER_BYTES: Final = 8
_FORM: Final = re.compile(rf"[0-9a-f]{{{2 * (_CHECK_BYTES + _NUMBER_BYTES)}}}")


class FileIds:
    """Ids of assets: a keyed hash of what an asset is, and its number under a pad that the hash gives.

    Parameters
    ----------
    secret
        The server's own; with another, every id is another.

    Examples
    --------
    >>> ids = FileIds("secret")
    >>> ids.number(ids.of(7, "file:///data/a.h5")), ids.number("0" * 48) == 7
    (7, False)
    """

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"montango files " + secret.encode()).digest()

    def of(self, number: int, uri: str) -> str:
        """Return the id of an asset by its number and address."""
        check = self._hash(b"asset " + number.to_bytes(_NUMBER_BYTES, "big") + uri.encode())[:_CHECK_BYTES]
        masked = number ^ self._pad(check)
        return (check + masked.to_bytes(_NUMBER_BYTES, "big")).hex()

    def number(self, file_id: str) -> int | None:
        """Return the number that an id may be of; None for a text that is no id.

        Whoever takes it compares `of` with the id: anyone can write a text of this form.
        """
        if not _FORM.fullmatch(file_id):
            return None
        raw = bytes.fromhex(file_id)
        number = int.from_bytes(raw[_CHECK_BYTES:], "big") ^ self._pad(raw[:_CHECK_BYTES])
        return number if number < 2**31 else None

    def matches(self, file_id: str, number: int, uri: str) -> bool:
        """Return whether an id is that of an asset."""
        return hmac.compare_digest(self.of(number, uri), file_id)

    def _pad(self, check: bytes) -> int:
        return int.from_bytes(self._hash(b"pad " + check)[:_NUMBER_BYTES], "big")

    def _hash(self, data: bytes) -> bytes:
        return hmac.new(self._key, data, hashlib.sha256).digest()
