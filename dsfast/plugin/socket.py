"""One client connection as plugins see it (plugins.md A.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from dsfast._core.protocol import Message

__all__ = ["Socket"]


@runtime_checkable
class Socket(Protocol):
    """One logged-in client connection as plugins see it (plugins.md A.3). Hashable by identity."""

    @property
    def user_id(self) -> str | None:
        """Id given by authentication; None before login."""

    @property
    def server_data(self) -> Any:
        """Data of the login for the server's own use (permission rules); never sent to the client."""

    @property
    def client_data(self) -> Any:
        """Data of the login that the client received; UNSET when it received none."""

    @property
    def uuid(self) -> str:
        """Random id of this connection."""

    @property
    def socket_type(self) -> str:
        """Protocol of the connection, for example ``wsBinary``."""

    @property
    def is_remote(self) -> bool:
        """True if the connection is held by another node."""

    @property
    def is_closed(self) -> bool:
        """True once the connection is closed; everything sent from then on is dropped."""

    @property
    def handshake_data(self) -> Mapping[str, Any]:
        """``remoteAddress``, ``headers`` (lower case names) and ``referer`` of the connection."""

    def send(self, message: Message) -> None:
        """Queue a message for this client; dropped silently if the connection is closed."""

    def on_close(self, callback: Callable[[Any], None]) -> None:
        """Call ``callback(socket)`` once when the connection closes, whatever the cause."""

    def remove_on_close(self, callback: Callable[[Any], None]) -> None:
        """Take back :meth:`on_close`; unknown callbacks are ignored."""

    def destroy(self) -> None:
        """Close the connection now."""
