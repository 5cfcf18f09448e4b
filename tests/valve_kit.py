"""A server with permission rules and clients with server data, for the tests of the whole permission path."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from dsfast._core.protocol import (
    AuthAction,
    EventAction,
    PresenceAction,
    RecordAction,
    RpcAction,
    Topic,
)
from dsfast.services.permission.rules import SECTIONS
from tests.record_client import GatedStorage, RecordClient
from tests.wire import Client, Running, Users, auth_request, serve

DENIED: dict[int, int] = {
    Topic.EVENT: EventAction.MESSAGE_DENIED,
    Topic.RECORD: RecordAction.MESSAGE_DENIED,
    Topic.RPC: RpcAction.MESSAGE_DENIED,
    Topic.PRESENCE: PresenceAction.MESSAGE_DENIED,
}
FAILED: dict[int, int] = {
    Topic.EVENT: EventAction.MESSAGE_PERMISSION_ERROR,
    Topic.RECORD: RecordAction.MESSAGE_PERMISSION_ERROR,
    Topic.RPC: RpcAction.MESSAGE_PERMISSION_ERROR,
    Topic.PRESENCE: PresenceAction.MESSAGE_PERMISSION_ERROR,
}


def permissions(rules: Mapping[str, Any], otherwise: Any = True) -> dict[str, Any]:
    """A permission file: ``rules`` by ``"section.type"`` or ``"section.type path"``, else ``otherwise``."""
    content: dict[str, Any] = {
        section: {"*": dict.fromkeys(types, otherwise)} for section, types in SECTIONS.items()
    }
    for place, rule in rules.items():
        kind, _, path = place.partition(" ")
        section, rule_type = kind.split(".")
        content[section].setdefault(path or "*", {})[rule_type] = rule
    return content


@contextlib.asynccontextmanager
async def serve_rules(
    rules: Mapping[str, Any],
    otherwise: Any = True,
    *,
    config: Mapping[str, Any] | None = None,
    valve: Mapping[str, Any] | None = None,
    **services: Any,
) -> AsyncIterator[Running]:
    """A server with these rules (see :func:`permissions`); ``valve``: more options of the permission."""
    options = {"permissions": permissions(rules, otherwise), **(valve or {})}
    services.setdefault("authentication", Users)
    settings = {"permission": {"type": "config", "options": options}, **(config or {})}
    async with serve(settings, **services) as running:
        yield running
        # Whatever a test did, no fault of the server itself has been logged.
        assert running.log.errors() == []


async def login(running: Running, user: str, server_data: Any = None) -> Client:
    """A logged-in client of a user whose ``user.data`` are given."""
    client = await running.challenged()
    fields: dict[str, Any] = {"username": user}
    if server_data is not None:
        fields["serverData"] = server_data
    client.send(auth_request(json.dumps(fields).encode()))
    await client.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
    client.user = user
    return client


async def record_login(running: Running, user: str, server_data: Any = None) -> RecordClient:
    """As :func:`login`, for records."""
    return RecordClient(await login(running, user, server_data))


class RowStorage(GatedStorage):
    """Holds some records from the start, none of them in the cache."""

    ROWS: Mapping[str, Any] = {}

    def init(self) -> None:
        super().init()
        self.rows = {name: (1, data) for name, data in self.ROWS.items()}


def storage_of(rows: Mapping[str, Any]) -> type[RowStorage]:
    """A storage with these records, each at version 1."""
    return type("Rows", (RowStorage,), {"ROWS": rows})


async def expect_refusal(
    client: Client, topic: int, verdict: str, action: int, name: str | None = None, **fields: Any
) -> None:
    """The next message says that this was ``denied``, or that its rule ``failed``."""
    table = DENIED if verdict == "denied" else FAILED
    if name is not None:
        fields["name"] = name
    await client.expect(topic, table[topic], original_action=action, is_error=True, **fields)


def state(running: Running, *names: str) -> dict[str, Any]:
    """What clients can change: these records as they are cached, subscriptions, patterns."""
    records = running.router.record_handler
    found = {name: records.find_cached(name.encode()) for name in names}
    return {
        "records": {
            name: (record.version, json.loads(record.text())) for name, record in found.items() if record
        },
        "subscriptions": {
            topic: {name: [peer.user_id for peer in registry.subscribers(name)] for name in registry.names()}
            for topic, registry in running.registries().items()
        },
        "patterns": {
            topic: [text for _, text in handler.patterns()]
            for topic, handler in running.router._listens.items()
        },
    }


__all__ = [
    "DENIED", "FAILED", "expect_refusal", "login", "permissions", "record_login", "serve_rules", "state",
    "storage_of",
]  # fmt: skip
