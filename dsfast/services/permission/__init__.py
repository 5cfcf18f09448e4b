"""What a client may do: everything, unless a permission plugin says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsfast.plugin import Permission, Socket

if TYPE_CHECKING:
    from dsfast._core.protocol import Message

__all__ = ["OpenPermission"]


class OpenPermission(Permission):
    """Permission ``none``: allows everything. The core knows it and does not even ask."""

    description = "none"

    def can_perform_action(self, socket: Socket, message: Message) -> bool:
        """True."""
        return True
