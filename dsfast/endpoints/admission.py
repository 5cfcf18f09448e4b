"""How many connections there may be at once."""

from __future__ import annotations

from collections.abc import Callable

from dsfast._core.connection import Connection
from dsfast.services.addresses import counted_as

__all__ = ["Admission"]


class Admission:
    """Counts the connections of a port, and refuses those above ``total`` or ``per_address``.

    ``exempt(address)`` says whom ``per_address`` does not concern. ``refused(address, reason)`` is told.
    """

    def __init__(
        self,
        total: int | None,
        per_address: int | None,
        exempt: Callable[[str], bool],
        refused: Callable[[str, str], None],
    ) -> None:
        self._total = total
        self._per_address = per_address
        self._exempt = exempt
        self._refused = refused
        self._inside: dict[Connection, str | None] = {}
        self._counts: dict[str, int] = {}

    def enter(self, connection: Connection) -> bool:
        """Count a connection; False if it has to go."""
        if connection in self._inside:
            return True
        address = connection.peer_address
        if self._total is not None and len(self._inside) >= self._total:
            self._refused(address or "", f"there are {self._total} connections (maxConnections)")
            return False
        key = None
        if self._per_address is not None and address is not None and not self._exempt(address):
            key = counted_as(address)
        if key is not None:
            count = self._counts.get(key, 0)
            if self._per_address is not None and count >= self._per_address:
                self._refused(key, f"it has {count} connections (maxConnectionsPerAddress)")
                return False
            self._counts[key] = count + 1
        self._inside[connection] = key
        return True

    def leave(self, connection: Connection) -> None:
        """It is gone."""
        key = self._inside.pop(connection, None)
        if key is not None:
            if self._counts[key] == 1:
                del self._counts[key]
            else:
                self._counts[key] -= 1
