"""A stand-in for MongoDB: the wire protocol and the few commands that the storage uses, in memory.

No server package exists for the test machines. The real driver talks to this one over a socket; ``_id`` is
unique, filters and replacements mean what they mean in MongoDB.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import bson

MAX_MESSAGE = 48_000_000
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013


class FakeMongo:
    """``async with FakeMongo() as server``: listens on ``server.port``."""

    def __init__(self) -> None:
        self.collections: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.indexes: dict[tuple[str, str], list[str]] = {}
        self.concerns: list[Any] = []
        self.commands: list[str] = []
        self.failures: list[tuple[str, dict[str, Any]]] = []
        """Answers to give once to the next command of a name instead of carrying it out."""
        self.before: dict[str, Any] = {}
        """Called once right before a command of this name, for races."""
        self.port = 0

    async def __aenter__(self) -> FakeMongo:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def docs(self, collection: str, database: str = "test") -> list[dict[str, Any]]:
        """The documents of a collection."""
        return self.collections.setdefault((database, collection), [])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length, number, _, kind = struct.unpack("<iiii", await reader.readexactly(16))
                body = await reader.readexactly(length - 16)
                writer.write(self._answer(kind, number, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, kind: int, number: int, body: bytes) -> bytes:
        if kind == OP_QUERY:
            at = body.index(b"\0", 4) + 1 + 8
            reply = self._run(bson.decode(body[at:]))
            payload = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(reply)
            return struct.pack("<iiii", 16 + len(payload), 0, number, OP_REPLY) + payload
        assert kind == OP_MSG, kind
        payload = struct.pack("<I", 0) + b"\0" + bson.encode(self._run(self._message(body)))
        return struct.pack("<iiii", 16 + len(payload), 0, number, OP_MSG) + payload

    @staticmethod
    def _message(body: bytes) -> dict[str, Any]:
        """Sections of OP_MSG joined into one command."""
        command: dict[str, Any] = {}
        at = 4
        while at < len(body):
            kind, at = body[at], at + 1
            (size,) = struct.unpack_from("<i", body, at)
            part = body[at : at + size]
            at += size
            if kind == 0:
                command = {**bson.decode(part), **command}
            else:
                end = part.index(b"\0", 4)
                command[part[4:end].decode()] = bson.decode_all(part[end + 1 :])
        return command

    def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(key for key in command if key not in ("documents", "updates", "deletes"))
        self.commands.append(name)
        for index, (failing, answer) in enumerate(self.failures):
            if failing == name:
                del self.failures[index]
                return answer
        if before := self.before.pop(name, None):
            before()
        if "writeConcern" in command:
            self.concerns.append(command["writeConcern"])
        method = getattr(self, f"_{name.lower()}", None)
        if method is None:
            return {"ok": 0.0, "code": 59, "errmsg": f"no such command: {name}"}
        place = (command.get("$db", "admin"), command[name])
        return {"ok": 1.0, **method(command, place)}

    def _hello(self, command: dict[str, Any], _: Any) -> dict[str, Any]:
        return {
            "isWritablePrimary": True, "ismaster": True, "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": MAX_MESSAGE, "maxWriteBatchSize": 100_000, "minWireVersion": 0,
            "maxWireVersion": 21, "readOnly": False, "helloOk": True,
        }  # fmt: skip

    _ismaster = _hello

    def _ping(self, command: dict[str, Any], _: Any) -> dict[str, Any]:
        return {}

    _endsessions = _buildinfo = _ping

    def _createindexes(self, command: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        self.indexes.setdefault(place, []).extend(index["name"] for index in command["indexes"])
        return {}

    def _find(self, command: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        rows = [row for row in self.collections.get(place, []) if _matches(row, command.get("filter", {}))]
        return {"cursor": {"id": 0, "ns": ".".join(place), "firstBatch": rows}}

    def _insert(self, command: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        rows, errors = self.collections.setdefault(place, []), []
        for index, document in enumerate(command["documents"]):
            if any(row["_id"] == document["_id"] for row in rows):
                errors.append({"index": index, "code": 11000, "errmsg": "E11000 duplicate key error"})
            else:
                rows.append(document)
        return {"n": len(command["documents"]) - len(errors), **({"writeErrors": errors} if errors else {})}

    def _update(self, command: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        rows, matched = self.collections.setdefault(place, []), 0
        for update in command["updates"]:
            assert not update.get("upsert")
            for index, row in enumerate(rows):
                if _matches(row, update["q"]):
                    rows[index] = {"_id": row["_id"], **update["u"]}
                    matched += 1
                    break
        return {"n": matched, "nModified": matched}

    def _delete(self, command: dict[str, Any], place: tuple[str, str]) -> dict[str, Any]:
        rows, count = self.collections.setdefault(place, []), 0
        for delete in command["deletes"]:
            found = [row for row in rows if _matches(row, delete["q"])]
            for row in found[: delete["limit"] or None]:
                rows.remove(row)
                count += 1
        return {"n": count}


def _matches(row: dict[str, Any], wanted: dict[str, Any]) -> bool:
    for key, condition in wanted.items():
        tests = condition if isinstance(condition, dict) else {"$eq": condition}
        for sign, value in tests.items():
            there = key in row
            ok = {
                "$eq": lambda: there and row[key] == value,  # noqa: B023 - called at once
                "$in": lambda: there and row[key] in value,  # noqa: B023
                "$lte": lambda: there and row[key] <= value,  # noqa: B023
                "$exists": lambda: there is value,  # noqa: B023
            }[sign]()
            if not ok:
                return False
    return True
