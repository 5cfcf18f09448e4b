"""Servers that all tests of a session share; each is started when the first test asks for it."""

from __future__ import annotations

import subprocess

import pytest

from tests.plugins.servers import MariadbProcess, MemcachedProcess, PostgresProcess, RedisProcess, program


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """One redis-server, with TCP and a Unix socket."""
    server = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server():
    """One PostgreSQL server with an empty database ``postgres``."""
    server = PostgresProcess()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate of its own for localhost and 127.0.0.1, and its key: two PEM files."""
    directory = tmp_path_factory.mktemp("tls")
    files = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-out", str(files[0]), "-keyout", str(files[1]),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return files


@pytest.fixture(scope="session")
def memcached_servers():
    """Three memcached servers."""
    servers = [MemcachedProcess() for _ in range(3)]
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def mariadb_server():
    """One MariaDB server with an empty database ``records``."""
    server = MariadbProcess()
    yield server
    server.remove()
