"""Servers that all tests of a session share; each is started when the first test asks for it."""

from __future__ import annotations

import pytest

from tests.plugins.servers import RedisProcess


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """One redis-server, with TCP and a Unix socket."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()
