"""Permission: what a client may do (plugins.md B.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dsfast.plugin.base import Plugin

if TYPE_CHECKING:
    from dsfast._core.protocol import Message
    from dsfast.plugin.socket import Socket

__all__ = ["Permission", "RecordHandler", "ReloadablePermission"]


@runtime_checkable
class RecordHandler(Protocol):
    """What a permission plugin may ask the server's records."""

    async def get_record(self, name: str) -> tuple[int, Any]:
        """Version and data as of all changes accepted so far; ``(-1, None)`` if there is no such record."""


class Permission(Plugin):
    """Decides what an authenticated client may do (plugins.md B.3)."""

    @abstractmethod
    def can_perform_action(self, socket: Socket, message: Message) -> bool | Awaitable[bool]:
        """True allows the message.

        Called once per message, for messages with several names once per name, and again for the steps of
        compound record actions with ``message.action`` CREATE, READ, UPDATE or PATCH. Changes and deletions
        of records are asked about when it is their turn, so that ``get_record`` shows what they will change;
        a patch without data is an ERASE. A plain bool is the fast way; an awaitable delays the later messages
        of the same connection until it is done. An exception, or no answer in time, denies with
        ``MESSAGE_PERMISSION_ERROR``.
        """

    def set_record_handler(self, handler: RecordHandler) -> None:
        """Receive access to the records; called once before the first message."""


@runtime_checkable
class ReloadablePermission(Protocol):
    """What a permission plugin may offer beside :class:`Permission`: rules that can be replaced."""

    async def reload(self) -> bool:
        """Read the rules again; False (and a line in the log) if they are not valid: the old ones stay."""

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever the rules were replaced: the server then ends what they forbid."""
