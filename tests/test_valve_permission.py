"""The permission service of rule files, asked directly: every vector, and waiting for records."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from storage_fakes import MemoryPlain
from wire import serve

from dsfast._core.protocol import EventAction, Message, PresenceAction, RecordAction, RpcAction, Topic
from dsfast.config import load
from dsfast.plugin import PluginError
from dsfast.services.permission.valve import ValvePermission

CASES = json.loads((Path(__file__).parent / "vectors" / "valve-rules.json").read_text())
ACTIONS: dict[str, Any] = {
    "EVENT": EventAction,
    "RECORD": RecordAction,
    "RPC": RpcAction,
    "PRESENCE": PresenceAction,
}


@dataclass
class User:
    user_id: str
    server_data: Any = None


class Records:
    """A record handler that knows some records, answers later, and counts."""

    def __init__(self, records: dict[str, Any], broken: str | None = None) -> None:
        self.records = records
        self.broken = broken
        self.asked: list[str] = []

    async def get_record(self, name: str) -> tuple[int, Any]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name == self.broken:
            raise RuntimeError("cache down")
        return (1, self.records[name]) if name in self.records else (-1, None)


class Services:
    """As much of a server as the permission service needs."""

    class logger:
        lines: list[tuple[str, str]] = []

        @classmethod
        def info(cls, event: str, text: str) -> None:
            cls.lines.append((event, text))

        warn = error = info


def permission(permissions: Any, records: Any = None, **options: Any) -> ValvePermission:
    config = load({"permission": {"type": "config", "options": {"permissions": permissions, **options}}})
    service = ValvePermission(config.permission.options, Services, config)  # type: ignore[arg-type]
    service.init()
    service.set_record_handler(records or Records({}))
    return service


def rules(section: str, rule_type: str, rule: Any, path: str = "*") -> dict[str, Any]:
    """A permission file with one rule; everything else is refused."""
    permissions: dict[str, Any] = {name: {"*": {}} for name in ("record", "event", "rpc", "presence")}
    permissions[section].setdefault(path, {})[rule_type] = rule
    return permissions


async def decide(service: ValvePermission, user: User, message: Message) -> str:
    try:
        allowed = service.can_perform_action(user, message)  # type: ignore[arg-type]
        if not isinstance(allowed, bool):
            allowed = await allowed
    except PluginError:
        return "error"
    assert isinstance(allowed, bool)
    return "allow" if allowed else "deny"


@pytest.mark.parametrize("case", CASES["rules"], ids=[case["id"] for case in CASES["rules"]])
async def test_vectors(case: dict[str, Any]) -> None:
    given = case["message"]
    data = given.get("data")
    if "parsedData" in given:
        data = json.dumps(given["parsedData"])
    message = Message(
        Topic[given["topic"]],
        ACTIONS[given["topic"]][given["action"]],
        name=given.get("name"),
        data=None if data is None else data.encode(),
        path=given.get("path"),
        version=given.get("version"),
    )
    permissions = case.get("permissions") or rules(case["section"], case["type"], case["rule"], case["path"])
    service = permission(
        permissions,
        Records(case.get("records", {}), case.get("failLoad")),
        maxRuleIterations=case.get("maxRuleIterations", 3),
    )
    user = User(case["user"]["id"], case["user"].get("serverData", case["user"].get("data")))
    assert await decide(service, user, message) == case["expect"]["result"]
    await service.close()


@pytest.mark.parametrize(("read", "warned"), [(True, True), (False, False), ("user.id === 'root'", False)])
async def test_rules_that_show_the_users_of_the_storage_authentication(read: Any, warned: bool) -> None:
    permissions = rules("record", "read", read, "users/*")
    auth = {
        "type": "storage",
        "options": {"table": "users", "hash": "sha512", "iterations": 20_000, "keyLength": 32},
    }
    config = {
        "auth": auth,
        "permission": {"type": "config", "options": {"permissions": permissions}},
    }
    async with serve(config, storage=MemoryPlain()) as s:
        assert any("which are the users" in line for _, _, line in s.log.lines) is warned
        s.log.lines.clear()
        s.services.permission.use_config(rules("record", "read", True))
        assert any("which are the users" in line for _, _, line in s.log.lines)
