"""The server that the JavaScript client cases in ``tests/js`` run against.

``python tests/js_server.py [--port N] [--config JSON]`` starts dsfast with the users and permissions below,
unless the configuration has ``auth`` or ``permission``. It prints one JSON line ``{"ready": true, "port":
N}``; SIGTERM stops it. Records are kept in a temporary directory. In the configuration, ``websocket`` stands
for the options of the websocket endpoints.
``tests/js/oracle/server.mjs`` is the same for the reference server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Mapping
from typing import Any

from dsfast import Server
from dsfast.plugin import UNSET, Authentication, AuthResult, Permission


class TestAuthentication(Authentication):
    """Everybody may log in with any name; what the login data says decides on special answers.

    ``password`` other than "secret": refused. ``refuse``: refused with that value as reason. ``unknown``: not
    this plugin's user. ``crash``: the plugin fails. ``once``: only the first login of that name.
    ``clientData``: returned. ``count``: the client data tell how often that name has logged in. ``hold``: the
    answer waits until somebody logs in with ``release`` of the same value.
    """

    description = "test users"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.logins: Counter[str | None] = Counter()
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def is_valid_user(
        self, connection_data: Mapping[str, Any], auth_data: Mapping[str, Any]
    ) -> AuthResult | None:
        if "refuse" in auth_data:
            return AuthResult(False, client_data=auth_data["refuse"])
        if auth_data.get("password", "secret") != "secret":
            return AuthResult(False, client_data=UNSET)
        if auth_data.get("unknown"):
            return None
        if auth_data.get("crash"):
            raise RuntimeError("authentication crashed on purpose")
        if "release" in auth_data:
            self.gates[auth_data["release"]].set()
        if "hold" in auth_data:
            await self.gates[auth_data["hold"]].wait()
        name = auth_data.get("username")
        self.logins[name] += 1
        if auth_data.get("once") and self.logins[name] > 1:
            return AuthResult(False, client_data={"error": "only one login"})
        client_data = auth_data.get("clientData", UNSET)
        if auth_data.get("count"):
            client_data = {"login": self.logins[name]}
        return AuthResult(True, id=name, client_data=client_data)


class TestPermission(Permission):
    """Refuses names with "forbidden", fails for names with "broken", takes its time for names with "slow"."""

    description = "test permissions"

    def can_perform_action(self, socket: Any, message: Any) -> bool | Awaitable[bool]:
        name = message.name or ""
        if "broken" in name:
            raise RuntimeError("permission crashed on purpose")
        allowed = "forbidden" not in name
        return self.later(allowed) if "slow" in name else allowed

    async def later(self, allowed: bool) -> bool:
        """The answer after some turns of the loop."""
        for _ in range(5):
            await asyncio.sleep(0)
        return allowed


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--config", type=json.loads, default={})
    arguments = parser.parse_args()
    config = dict(arguments.config)
    websocket = config.pop("websocket", {})
    port = arguments.port or free_port()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with tempfile.TemporaryDirectory(prefix="dsfast-js-") as directory:
        server = Server(
            {
                **config,
                "logLevel": "WARN",
                "dataDir": directory,
                "httpServer": {"type": "default", "options": {"host": "127.0.0.1", "port": port}},
                "connectionEndpoints": [
                    {"type": kind, "options": websocket} for kind in ("ws-binary", "ws-json", "ws-text")
                ]
                + [{"type": "http"}],
            }
        )
        if "auth" not in config:
            server.set("authentication", TestAuthentication({}, server.get_services(), server.get_config()))
        if "permission" not in config:
            server.set("permission", TestPermission({}, server.get_services(), server.get_config()))
        await server.start()
        print(json.dumps({"ready": True, "port": port}), flush=True)
        await stop.wait()
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
