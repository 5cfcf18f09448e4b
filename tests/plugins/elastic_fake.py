"""A stand-in for Elasticsearch and OpenSearch: the requests that the storage makes, in memory.

Documents have sequence numbers, which conditional writes compare; mappings are as dynamic as the real ones in
what matters here: a field is either an object or a value, and some names are refused.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

META = ("_id", "_index", "_source", "_type", "_routing")


class FakeElastic:
    """``async with FakeElastic() as server``: listens on ``server.port``."""

    def __init__(self) -> None:
        self.indices: dict[str, dict[str, dict[str, Any]]] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        self.kinds: dict[str, dict[str, str]] = {}
        self.failures: list[tuple[str, web.Response]] = []
        """Answers to give once to the next request of a path instead of carrying it out."""
        self.item_failures: list[tuple[str, int]] = []
        """Statuses to give once to the next bulk item of an id."""
        self.before: dict[str, Any] = {}
        """Called once right before a request of this path, for races."""
        self.login: str | None = None
        self.port = 0
        self._sequence = 0

    async def __aenter__(self) -> FakeElastic:
        application = web.Application(client_max_size=100 << 20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        path = request.path
        for index, (failing, answer) in enumerate(self.failures):
            if path == failing:
                del self.failures[index]
                return answer
        if before := self.before.pop(path, None):
            before()
        if self.login is not None and request.headers.get("Authorization") != self.login:
            return web.json_response({"error": {"reason": "missing credentials"}}, status=401)
        body = await request.read()
        if path == "/":
            return web.json_response({"version": {"number": "8.0.0"}})
        if path == "/_mget":
            asked = json.loads(body)["docs"]
            return web.json_response({"docs": [self._get(ask["_index"], ask["_id"]) for ask in asked]})
        if path == "/_bulk":
            assert request.content_type == "application/x-ndjson"
            items = self._bulk(body.decode().split("\n"))
            return web.json_response({"items": items, "errors": any(i for i in items)})
        index = path[1:]
        if request.method == "PUT":
            if index in self.indices:
                error = {"type": "resource_already_exists_exception", "reason": "already exists"}
                return web.json_response({"error": error}, status=400)
            self.indices[index], self.bodies[index] = {}, json.loads(body)
            return web.json_response({"acknowledged": True})
        return web.json_response({"error": {"reason": "no such request"}}, status=400)

    def put(self, index: str, key: str, source: dict[str, Any]) -> None:
        """Write a document as somebody else."""
        self._sequence += 1
        self.indices.setdefault(index, {})[key] = {
            "_source": source,
            "_seq_no": self._sequence,
            "_primary_term": 1,
        }

    def _get(self, index: str, key: str) -> dict[str, Any]:
        document = self.indices.get(index, {}).get(key)
        head = {"_index": index, "_id": key}
        return {**head, "found": True, **document} if document else {**head, "found": False}

    def _bulk(self, lines: list[str]) -> list[dict[str, Any]]:
        items = []
        feed = iter(lines[:-1])
        for line in feed:
            [(kind, head)] = json.loads(line).items()
            source = None if kind == "delete" else json.loads(next(feed))
            items.append({kind: self._carry_out(kind, head, source)})
        return items

    def _carry_out(self, kind: str, head: dict[str, Any], source: Any) -> dict[str, Any]:
        index, key = head["_index"], head["_id"]
        for at, (failing, status) in enumerate(self.item_failures):
            if failing == key:
                del self.item_failures[at]
                return {"status": status, "error": {"reason": "not now"}}
        assert 0 < len(key.encode()) <= 512
        there = self.indices.setdefault(index, {}).get(key)
        if kind == "delete":
            self.indices[index].pop(key, None)
            return {"status": 200 if there else 404}
        wanted = head.get("if_seq_no")
        if (kind == "create" and there) or (wanted is not None and (not there or there["_seq_no"] != wanted)):
            return {"status": 409, "error": {"type": "version_conflict_engine_exception"}}
        hidden = {
            name
            for name, mapping in self.bodies.get(index, {}).get("mappings", {}).get("properties", {}).items()
            if mapping.get("enabled") is False
        }
        try:
            self._map(index, "", {name: value for name, value in source.items() if name not in hidden})
        except ValueError as error:
            return {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": str(error)}}
        self.put(index, key, source)
        return {"status": 201}

    def _map(self, index: str, path: str, value: Any) -> None:
        if isinstance(value, list):
            for inner in value:
                self._map(index, path, inner)
            return
        if value is None:
            return
        if path:
            kind = "object" if isinstance(value, dict) else "value"
            if self.kinds.setdefault(index, {}).setdefault(path, kind) != kind:
                raise ValueError(f"object mapping for [{path}] tried to parse as object")
        if isinstance(value, dict):
            for name, inner in value.items():
                if not name.strip() or (not path and name in META):
                    raise ValueError(f"field name [{name}] is refused")
                self._map(index, f"{path}.{name}" if path else name, inner)
