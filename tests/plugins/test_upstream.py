"""Deepstream's own connectors read what ours write, and ours what they write, on the same server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from dsfast.testing import started
from dsfast_plugins.postgres import PostgresStorage
from dsfast_plugins.redis import RedisCache
from tests.plugins.servers import program

loops = ["uvloop"]

HERE = Path(__file__).parent / "upstream"
RECORDS = [
    ["user/1", 3, {"a": 1, "s": "ä\u20ac\U0001f600 '\" \\ \n"}],
    ["plain", 0, {}],
    ["list", 7, ["x", {"y": None}, []]],
    ["a b/c d/e", 2, {"n": 1.5, "big": 2**53 - 1, "nested": {"deep": [True, False]}}],
    ["x_v", 1, []],
]
NAMES = [record[0] for record in RECORDS]


def upstream(kind, operation, port, items):
    """Let upstream's connector work; what it answers."""
    result = subprocess.run(
        [program("node"), "connector.cjs", kind, operation, str(port), json.dumps(items)],
        cwd=HERE,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_both_ways(kind, request):
    if not (HERE / "node_modules").exists():
        assert not os.environ.get("CI"), "make test installs them"
        pytest.skip("npm ci in tests/plugins/upstream")
    port = request.getfixturevalue(f"{kind}_server").port
    plugin_class, options = RedisCache, {"port": port}
    if kind == "postgres":
        plugin_class = PostgresStorage
        options = {"host": "127.0.0.1", "port": port, "user": "postgres", "database": "postgres"}
    async with started(plugin_class, options) as plugin:
        await plugin.delete_bulk(NAMES)
        await asyncio.to_thread(upstream, kind, "set", port, RECORDS)
        assert [[name, *await plugin.get(name)] for name in NAMES] == RECORDS
        newer = [[name, version + 1, data] for name, version, data in RECORDS]
        for record in newer:
            await plugin.set(*record)
        assert await asyncio.to_thread(upstream, kind, "get", port, NAMES) == newer
        await plugin.delete_bulk(NAMES)
        missing = await asyncio.to_thread(upstream, kind, "get", port, NAMES[:1])
        assert missing == [[NAMES[0], -1, None]]
