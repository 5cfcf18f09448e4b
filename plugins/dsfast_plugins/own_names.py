"""Permission by names: everybody may use what has their user id in its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from dsfast.plugin import Permission, Socket
from dsfast.protocol import EventAction, RecordAction, Topic
from dsfast_plugins.options import Options, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.protocol import Message
    from dsfast.services import Services

__all__ = ["OwnNamesPermission"]

Text = Annotated[str, Meta(min_length=1)]

# Their name is a pattern: one that contains a user id, `.*|/alice/`, may match everything all the same.
_PATTERNS = frozenset({(Topic.EVENT, EventAction.LISTEN), (Topic.RECORD, RecordAction.LISTEN)})


class OwnNamesOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/permission.md."""

    match: Literal["part", "anywhere"] = "part"
    separator: Text = "/"
    shared: tuple[Text, ...] = ()
    admins: tuple[Text, ...] = ()


class OwnNamesPermission(Permission):
    """Allows what has the user's id as a part of its name (``chat/alice``), or anywhere in it if asked to.

    Presence of everybody, which has no name, is allowed. Listening is for admins: a pattern has no owner.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        given, self._warnings = read_options(OwnNamesOptions, options)
        self.description = "user id in the name"
        self._separator = given.separator if given.match == "part" else ""
        self._shared = given.shared
        self._admins = frozenset(given.admins)

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"own-names permission: {warning}")

    def can_perform_action(self, socket: Socket, message: Message) -> bool:
        """See :class:`dsfast.Permission`."""
        user, name = socket.user_id, message.name
        if user in self._admins:
            return True
        if not user or (message.topic, message.action) in _PATTERNS:
            return False
        if name is None or name.startswith(self._shared):
            return True
        end = self._separator
        return f"{end}{user}{end}" in f"{end}{name}{end}"
