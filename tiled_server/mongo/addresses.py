"""Addresses of MongoDB: checked, shown without their password, connected to."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from devices.errors import ConfigurationError, DeviceLost

if TYPE_CHECKING:
    from pymongo.database import Database

SCHEMES: Final = ("mongodb://", "mongodb+srv://")
ANSWER_TIMEOUT_S: Final = 3.0
INSTALL: Final = 'MongoDB needs an extra of Montango; install it with: pip install "montango[mongo]"'
_PASSWORD: Final = re.compile(r"(?<=://)([^:/@]*):([^@]*)@")


def is_mongo(uri: str) -> bool:
    """Return whether an address is one of MongoDB."""
    return uri.startswith(SCHEMES)


def checked_mongo(name: str, uri: str) -> str:
    """Return the address of a MongoDB database.

    Raises
    ------
    ConfigurationError
        It is none, or names no database, or what it takes is not installed. The address itself is not in the
        message: it may hold a password.
    """
    try:
        from pymongo.errors import PyMongoError
        from pymongo.uri_parser import parse_uri
    except ModuleNotFoundError:
        raise ConfigurationError(INSTALL) from None
    if find_spec("databroker") is None or find_spec("suitcase.mongo_normalized") is None:
        raise ConfigurationError(INSTALL)
    try:
        # names of hosts are looked up only where it is connected to
        found = parse_uri(uri)["database"] if uri.startswith(SCHEMES[0]) else _srv_database(uri)
    except (PyMongoError, ValueError):
        found = None
    if not found:
        raise ConfigurationError(
            f"{name} is not the address of a MongoDB database; give mongodb://USER@HOST:PORT/DATABASE, and "
            f"encode marks such as @ and / in a password (%40, %2F)"
        )
    return uri


def _srv_database(uri: str) -> str:
    if not uri.startswith(SCHEMES[1]):
        return ""
    _, _, rest = uri.removeprefix(SCHEMES[1]).partition("/")
    return rest.partition("?")[0]


def shown_mongo(uri: str) -> str:
    """Return an address with stars for its password."""
    return _PASSWORD.sub(r"\1:***@", uri)


def connected(uri: str) -> Database[dict[str, Any]]:
    """Return a database; nothing is asked of it yet. An operation waits `ANSWER_TIMEOUT_S` for a server."""
    from pymongo import MongoClient

    client: MongoClient[dict[str, Any]] = MongoClient(
        uri, serverSelectionTimeoutMS=int(1e3 * ANSWER_TIMEOUT_S), appname="montango", tz_aware=False
    )
    return client.get_default_database()


def check_mongo(name: str, uri: str) -> None:
    """See that a MongoDB answers and lets the user in.

    Raises
    ------
    DeviceLost
        It does not: one line with its address, without the password, and why.
    """
    from pymongo.errors import PyMongoError

    database = connected(uri)
    try:
        database.client.admin.command("ping")
        database["run_start"].find_one({"uid": ""})
    except PyMongoError as error:
        words = _PASSWORD.sub(r"\1:***@", str(error)).split(",")[0].splitlines()[0]
        raise DeviceLost(
            f"{name} {shown_mongo(uri)}: {words}; see that MongoDB 4.4 or later runs there, and that user "
            f"and password are right"
        ) from None
    finally:
        database.client.close()
