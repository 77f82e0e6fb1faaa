"""Tables of events in SQLite, as many runs write them and many people read them at once.

Tiled 0.2.20 opens SQLite files in the mode in which a reader keeps writers out, and does not wait for one
another: under four writers and eight readers every hundredth request or so was answered "database is locked".
Here the file is in WAL mode, in which readers and writers do not meet, those who must wait do, and within
this process one writes after the other.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from adbc_driver_manager import Error as DatabaseError
from sqlalchemy import event
from tiled.adapters.sql import SQLAdapter
from tiled.catalog.adapter import STORAGE_ADAPTERS_BY_MIMETYPE
from tiled.storage import EmbeddedSQLStorage
from tiled.utils import path_from_uri

from tiled_server.databases import BUSY_TIMEOUT_S, write_ahead
from tiled_server.mimetypes import SQL_TABLE

_TRIES: Final = 5

_WRITING = threading.RLock()
_preparing = threading.Lock()
_prepared: set[int] = set()


class EventTableAdapter(SQLAdapter):  # type: ignore[misc]  # Tiled is untyped
    """A table of events; in SQLite a patient one."""

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        _prepare(self.storage)

    @classmethod
    def init_storage(cls, storage: Any, data_source: Any, path_parts: Any = None) -> Any:
        """Make room for a table, and return where it is."""
        _prepare(storage)
        for left in reversed(range(_TRIES)):
            try:
                with _turn(storage):
                    return super().init_storage(storage, data_source, path_parts)
            except DatabaseError as error:
                # rows of another run were deleted after it had begun to read
                if "locked" not in str(error) or not left:
                    raise
        raise AssertionError  # the last try returns or raises

    def append_partition(self, *args: Any, **parameters: Any) -> None:
        """Add rows."""
        with _turn(self.storage):
            super().append_partition(*args, **parameters)


def _turn(storage: Any) -> AbstractContextManager[Any]:
    return _WRITING if _is_sqlite(storage) else nullcontext()


def _is_sqlite(storage: Any) -> bool:
    return isinstance(storage, EmbeddedSQLStorage) and storage.dialect == "sqlite"


def _prepare(storage: Any) -> None:
    """Put the file into WAL mode, and let every connection wait for others; once for each storage."""
    if id(storage) in _prepared or not _is_sqlite(storage):
        return
    with _preparing:
        if id(storage) in _prepared:
            return
        write_ahead(path_from_uri(storage.uri))
        event.listen(storage._connection_pool, "connect", _set_patience)
        _prepared.add(id(storage))
        weakref.finalize(storage, _prepared.discard, id(storage))


def _set_patience(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout={1000 * BUSY_TIMEOUT_S}")
        cursor.fetchall()
    connection.commit()


def register() -> None:
    """Let new tables be made by it."""
    STORAGE_ADAPTERS_BY_MIMETYPE.set(SQL_TABLE, lambda: EventTableAdapter)


register()
