"""Times that analysts give: only what can be read in one way."""

from __future__ import annotations

from datetime import date, datetime, time

from devices.errors import ConfigurationError


def unix_s(value: datetime | date | str, name: str) -> float:
    """Return a time as s since 1970-01-01 UTC.

    Parameters
    ----------
    value
        A `datetime`, a `date` (its midnight) or ISO 8601 text such as ``"2026-11-21"``,
        ``"2026-11-21T14:30"`` or ``"2026-11-21T14:30+01:00"``. Without an offset from UTC it is the time of
        this computer's clock.
    name
        What it is given as, for messages.

    Raises
    ------
    ConfigurationError
        It is neither.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = datetime.fromisoformat(text)
        except ValueError as error:
            raise _refused(name, repr(value), str(error)) from None
        if text.isdecimal():
            raise _refused(name, repr(text), "digits alone may be a date or seconds")
    if isinstance(value, datetime):  # before date: a datetime is one
        return value.timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time()).timestamp()
    raise _refused(name, repr(value), f"a {type(value).__name__} is no time")


def _refused(name: str, value: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} = {value} is not understood ({why}); give a datetime, a date, or text like "
        f"'2026-11-21', '2026-11-21T14:30' or '2026-11-21T14:30+01:00'"
    )
