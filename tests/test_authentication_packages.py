"""Packages that only some authentications need: not loaded by others, and missed with a clear text."""

import subprocess
import sys
from pathlib import Path

import pytest
from auth_kit import Login

from dsfast.plugin import PluginError

ROOT = Path(__file__).parent.parent
LOADED = """
import asyncio, sys
from dsfast import Server

async def main():
    options = {options!r}
    server = Server({{"httpServer": {{"options": {{"host": "127.0.0.1", "port": 0}}}},
                      "storage": {{"type": "none"}}, "logLevel": "off", "auth": options}})
    await server.start()
    await server.stop()
    print(*(name for name in ("aiohttp", "jwt", "argon2", "cryptography") if name in sys.modules))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"type": "none"}, ""),
        ({"type": "file", "options": {"users": {"peter": {"password": "x"}}}}, ""),
        ({"type": "file", "options": {"users": {"peter": {"password": "$argon2id$x"}}}}, "argon2"),
        (
            {
                "type": "http",
                "options": {
                    "endpointUrl": "http://localhost:1",
                    "permittedStatusCodes": [200],
                    "requestTimeout": 1,
                },
            },
            "",  # until somebody logs in
        ),
        ({"type": "jwt", "options": {"algorithms": ["HS256"], "secret": "x" * 32}}, "jwt cryptography"),
    ],
)
def test_a_start_loads_what_it_needs(auth, expected):
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(options=auth)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_argon2_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "argon2", None)
    users = {"peter": {"password": "x"}}
    Login({"type": "file", "options": {"users": users}}).build().init()
    for options in (
        {"users": users, "hash": "argon2id"},
        {"users": {"peter": {"password": "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAA"}}},
    ):
        with pytest.raises(PluginError, match=r"pip install 'dsfast\[argon2\]'"):
            Login({"type": "file", "options": options}).build().init()


def test_pyjwt_is_not_installed(monkeypatch):
    for name in ("jwt", "jwt_keys"):
        monkeypatch.delitem(sys.modules, f"dsfast.services.authentication.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(PluginError, match=r"pip install 'dsfast\[jwt\]'"):
        Login({"type": "jwt", "options": {"algorithms": ["HS256"], "secret": "x" * 32}}).build()
