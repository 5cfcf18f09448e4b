"""Custom plugin that lets those with a token look into the server and change it, over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs

from msgspec import Meta

from dsfast.config import ConfigError, set_value
from dsfast.plugin import HttpError, HttpMeta, Plugin, PluginError, ReloadablePermission, Socket, StateTopic
from dsfast.services.logger import FloodGuard
from dsfast_plugins.options import OptionError, Options, Positive, read_options

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["Admin"]

CHANGEABLE = (
    "logLevel",
    "authenticationTimeout",
    "rpc.ackTimeout",
    "rpc.responseTimeout",
    "rpc.provideRequestorName",
    "rpc.provideRequestorData",
    "rpc.maxOpenCalls",
    "record.cacheRetrievalTimeout",
    "record.storageRetrievalTimeout",
    "listen.responseTimeout",
    "listen.matchCooldown",
    "listen.shuffleProviders",
    "listen.maxPatternsPerClient",
)
"""What is read whenever it is used, so that a change has an effect."""

MAX_ENTRIES = 10_000
"""Entries of one answer."""

Text = Annotated[str, Meta(min_length=1)]


class AdminOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/custom.md."""

    path: Annotated[str, Meta(pattern="^/[^?#]*[^/?#]$")] = "/admin"
    tokens: Annotated[dict[Text, Annotated[str, Meta(min_length=24)]], Meta(min_length=1)]
    requests_per_minute: Positive = 120
    failures_per_minute: Positive = 30
    changeable: tuple[str, ...] = CHANGEABLE


class Allowance:
    """``limit`` per minute, and as many at once after a minute of rest."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._left = float(limit)
        self._clock = clock
        self._at = clock()

    def take(self) -> bool:
        """Whether one more is allowed."""
        now = self._clock()
        self._left = min(self._limit, self._left + (now - self._at) * self._limit / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Admin(Plugin):
    """Serves ``GET <path>/connections``, ``/subscriptions`` and ``/config``, and ``POST`` to
    ``<path>/sessions/end``, ``/rules/reload`` and ``/config``, with ``Authorization: Bearer <token>``.

    Each token has a name, which the line in the log about every change begins with. Connections and sessions
    are those of this server; subscriptions are those of its clients.
    """

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._given, self._warnings = read_options(AdminOptions, options, required=("tokens",))
        if unknown := sorted(set(self._given.changeable) - set(CHANGEABLE)):
            raise OptionError(f"option changeable: {unknown[0]} cannot be changed at run time")
        self._tokens = {name: _digest(token) for name, token in self._given.tokens.items()}
        self._requests = {name: Allowance(self._given.requests_per_minute) for name in self._tokens}
        self._failures = Allowance(self._given.failures_per_minute)
        self._sockets: dict[Socket, float] = {}
        self._gets: dict[str, Callable[[dict[str, str]], Any]] = {
            "/connections": self._connections,
            "/subscriptions": self._subscriptions,
            "/config": self._config,
        }
        self._posts: dict[str, Callable[[str, Any], Any]] = {
            "/sessions/end": self._end_sessions,
            "/rules/reload": self._reload_rules,
            "/config": self._change_config,
        }
        self.description = f"admin at {self._given.path} for {', '.join(self._tokens)}"

    def init(self) -> None:
        """Register the paths. Raises :class:`PluginError`."""
        self._guard = FloodGuard(self.logger)
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"admin: {warning}")
        try:
            self.services.http_service.register_get_path_prefix(self._given.path, self._get)
            self.services.http_service.register_post_path_prefix(self._given.path, self._post)
        except ValueError as error:
            raise PluginError(f"option path: {error}") from None

    async def close(self) -> None:
        """Sum up what was not logged."""
        if hasattr(self, "_guard"):
            self._guard.close()

    def on_client_connected(self, socket: Socket) -> None:
        """See :class:`dsfast.plugin.ConnectionListener`."""
        self._sockets[socket] = time.time()

    def on_client_disconnected(self, socket: Socket) -> None:
        """See :class:`dsfast.plugin.ConnectionListener`."""
        self._sockets.pop(socket, None)

    # ---- who asks, and for what

    def _get(self, meta: HttpMeta) -> Any:
        path, _, query = meta.url.partition("?")
        self._admit("GET", meta)
        handler = self._gets.get(path.removeprefix(self._given.path))
        if handler is None:
            raise HttpError(404, "Endpoint not found.")
        return handler({key: values[-1] for key, values in parse_qs(query).items()})

    def _post(self, data: Any, meta: HttpMeta) -> Any:
        name = self._admit("POST", meta)
        handler = self._posts.get(meta.url.partition("?")[0].removeprefix(self._given.path))
        if handler is None:
            raise HttpError(404, "Endpoint not found.")
        if not isinstance(data, dict):
            raise HttpError(400, "the body has to be a JSON object")
        return handler(name, data)

    def _admit(self, method: str, meta: HttpMeta) -> str:
        """The name of the token in a request. Raises HttpError if there is none, or too often one.

        A right token is let in however many wrong ones there are: nobody can lock its owner out.
        """
        scheme, _, token = meta.headers.get("authorization", "").partition(" ")
        digest = _digest(token.strip() if scheme.lower() == "bearer" else "")
        found = ""
        for name, known in self._tokens.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = name
        if found:
            if not self._requests[found].take():
                raise HttpError(429, "too many requests")
            return found
        self._guard.warn("admin", "ADMIN", f"refused: {method} {meta.url[:200]} without a known token")
        if not self._failures.take():
            raise HttpError(429, "too many requests")
        raise HttpError(401, "a token is needed")

    # ---- what they get

    def _connections(self, query: dict[str, str]) -> dict[str, Any]:
        user = query.get("user")
        sockets = [socket for socket in self._sockets if user is None or socket.user_id == user]
        return {
            "total": len(sockets),
            "connections": [
                {
                    "uuid": socket.uuid,
                    "user": socket.user_id,
                    "protocol": socket.socket_type,
                    "address": socket.handshake_data.get("remoteAddress"),
                    "since": int(self._sockets[socket] * 1000),
                }
                for socket in islice(sockets, _limit(query))
            ],
        }

    def _subscriptions(self, query: dict[str, str]) -> dict[str, Any]:
        wanted, limit = query.get("name"), _limit(query)
        answer: dict[str, Any] = {}
        for (_, state), registry in self.services.subscriptions.get_subscription_registries().items():
            subscribers = registry.get_local_subscribers
            names: Collection[str] = registry.get_local_names()
            total = len(names)
            if wanted is not None:
                names = [wanted] if subscribers(wanted) else []
            entries: list[dict[str, Any]] = []
            for name in islice(names, limit):
                sockets = subscribers(name)
                entry: dict[str, Any] = {"name": name, "subscribers": len(sockets)}
                if wanted is not None:
                    entry["users"] = [socket.user_id for socket in islice(sockets, limit)]
                entries.append(entry)
            answer[StateTopic(state).name] = {"total": total, "names": entries}
        return answer

    def _config(self, query: dict[str, str]) -> dict[str, Any]:
        return {key: self._value(key) for key in self._given.changeable}

    # ---- what they do

    def _end_sessions(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        user, uuid = data.get("user"), data.get("uuid")
        if not isinstance(user, str) and not isinstance(uuid, str):
            raise HttpError(400, "user or uuid has to be a text")
        ended = [socket for socket in self._sockets if uuid in (None, socket.uuid)]
        ended = [socket for socket in ended if user in (None, socket.user_id)]
        for socket in ended:
            socket.destroy()
        self._audit(name, f"ended {len(ended)} sessions of {user if uuid is None else uuid}")
        return {"ended": len(ended)}

    async def _reload_rules(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        permission = self.services.permission
        if not isinstance(permission, ReloadablePermission):
            raise HttpError(409, "the permission service has no rules to be read again")
        reloaded = await permission.reload()
        self._audit(name, "read the rules again" if reloaded else "tried to read the rules again: invalid")
        if not reloaded:
            raise HttpError(409, "the rules are not valid, see the log; those of before are still in use")
        return {"reloaded": True}

    def _change_config(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        key, value = data.get("key"), data.get("value")
        if key not in self._given.changeable or "value" not in data:
            raise HttpError(400, f"key has to be one of {', '.join(self._given.changeable)}; value is needed")
        previous = self._value(key)
        try:
            set_value(self.config, key, value)
        except ConfigError as error:
            raise HttpError(400, " ".join(str(error).split())) from None
        if key == "logLevel":
            self.logger.set_log_level(self.config.log_level)
        self._audit(name, f"changed {key} from {previous} to {self._value(key)}")
        return {"key": key, "previous": previous, "value": self._value(key)}

    def _value(self, key: str) -> Any:
        value: Any = self.config
        for part in key.split("."):
            value = value[part]
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def _audit(self, name: str, text: str) -> None:
        self.logger.info("ADMIN", f"{name} {text}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _limit(query: dict[str, str]) -> int:
    text = query.get("limit", "1000")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_ENTRIES:
        raise HttpError(400, f"limit has to be a number from 1 to {MAX_ENTRIES}")
    return int(text)
