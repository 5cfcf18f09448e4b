"""Messages as plugins see them: what they are about, and the numbers of all topics and actions.

The names are those of the compiled core; this module is where the public contract has them
(plugins.md A.3, protocol-binary.md sections 4 to 9).
"""

from __future__ import annotations

from dsfast._core.protocol import (
    AuthAction,
    ConnectionAction,
    EventAction,
    Message,
    ParserAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
)

__all__ = [
    "AuthAction",
    "ConnectionAction",
    "EventAction",
    "Message",
    "ParserAction",
    "PresenceAction",
    "RecordAction",
    "RpcAction",
    "Topic",
]
