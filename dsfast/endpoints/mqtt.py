"""The MQTT endpoint (protocol-mqtt.md)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsfast._core.connection import Connection, Endpoint
from dsfast._core.mqtt_protocol import Limits, MqttBroker, MqttProtocol, MqttStreamProtocol
from dsfast._core.protocol import EventAction, Message, RecordAction, Topic
from dsfast.config.schema import DefaultEndpoints
from dsfast.endpoints.clients import ClientEndpoint
from dsfast.endpoints.listener import Listener
from dsfast.endpoints.tls import certificates_of
from dsfast.handlers.permission import Decision
from dsfast.plugin import AuthResult, PluginError
from dsfast.services.authentication.combiner import FAULT
from dsfast.services.http_service.proxies import Proxies

if TYPE_CHECKING:
    from dsfast.config import MqttOptions
    from dsfast.handlers import MessageRouter

__all__ = ["MqttEndpoint"]

SLACK = 64 * 1024
"""Bytes by which a websocket message may be longer than a packet."""
NEVER = 1 << 40
"""Ms; silence is watched over by the protocol, which knows the keep-alive of each client."""


@dataclass(frozen=True, slots=True)
class _OnWebSockets:
    """The part of the endpoint that is on the HTTP port."""

    core: Endpoint


class MqttEndpoint(ClientEndpoint):
    """Serves MQTT 3.1.1 on a port of its own, and in websockets on the HTTP port."""

    description = "mqtt"
    options: MqttOptions
    monitored_as = "mqtt"

    def init(self) -> None:
        """Set up the core's parts from the options. Raises :class:`PluginError`."""
        self.prepare()
        options, router = self.options, self.services.message_distributor
        self.max_names = options.max_filters
        self._certificates = certificates_of(options.ssl, self._pointer(), self.config, self.logger)
        self.limits = Limits(
            max_packet=options.max_message_size,
            max_topic=options.max_topic_length,
            max_filters=options.max_filters,
            max_inflight=options.max_inflight,
            max_queued=options.max_queued_messages,
            max_queued_bytes=options.max_queued_bytes,
            max_sessions=options.max_sessions,
            session_expiry=options.session_expiry,
            idle_timeout=options.idle_timeout,
            send_record=options.send_record_on_subscribe,
        )
        tcp, web = router.protocol(MqttProtocol), router.protocol(MqttStreamProtocol)
        self.broker: MqttBroker = tcp.broker or MqttBroker(router, tcp, web, _Decider.of(router))
        router.figures["mqtt"] = self.broker.stats
        self.core = self._core(tcp)
        self.core.framed = False
        proxies = Proxies(self.config.http.trusted_proxies, lambda address: None)
        self._listener = Listener(
            self.core,
            certificates=self._certificates,
            speaks_for_others=proxies.trusts if options.proxy_protocol else None,
            refused=self._refused,
        )
        self._http = self.services.http_service
        if options.url_path is not None:
            try:
                self._http.register_websocket_endpoint(options.url_path, _OnWebSockets(self._core(web)))
            except ValueError as error:
                raise PluginError(str(error)) from None

    def _pointer(self) -> str:
        """Where the certificates of this endpoint are in the configuration."""
        sections = self.config.connection_endpoints
        index = next((i for i, one in enumerate(sections) if one.get("options") is self.options), 0)
        return f"/connectionEndpoints/{index}/options/ssl"

    def _refused(self, address: str, reason: str) -> None:
        self._guard.info(address, "CONNECTION_ERROR", f"no connection for {address}: {reason}")

    def _core(self, protocol: MqttProtocol) -> Endpoint:
        core = self.make_core(protocol)
        # Of one websocket message, which may hold several packets; the protocol knows how large those may be.
        core.max_message_size = self.options.max_message_size + SLACK
        core.heartbeat_interval = NEVER
        core.unauthenticated_timeout = self.options.unauthenticated_client_timeout or 0
        core.max_auth_attempts = 1
        return core

    async def when_ready(self) -> None:
        """Open the port. Raises OSError."""
        host, port = self.options.host, self.options.port
        try:
            await self._listener.listen(host, port)
        except OSError as error:
            # If nobody has asked for it, another server on its port keeps no websockets from being served.
            asked_for = not isinstance(self.config.connection_endpoints, DefaultEndpoints)
            if asked_for or error.errno != errno.EADDRINUSE:
                raise
            self.logger.warn("INFO", f"MQTT clients cannot connect: {host}:{port} is already in use")
            return
        self._listener.accept_when_data_came()
        kind = "TCP" if self._certificates is None else "TLS"
        for host, port in self.addresses:
            self.logger.info("INFO", f"Listening for MQTT {kind} connections on {host}:{port}")
        if self._certificates is not None:
            self._certificates.watch()

    async def reload(self) -> bool | None:
        """Read the certificate again; None without TLS, False if it cannot be used and the old one stays."""
        return None if self._certificates is None else await self._certificates.reload()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Addresses and ports that are listened on; empty before the start and after the stop."""
        return self._listener.addresses if hasattr(self, "_listener") else []

    def stop_accepting(self) -> None:
        """Refuse new clients from now on; those who leave from now on have no last will."""
        if hasattr(self, "_listener"):
            self.broker.stopping = True
            self._listener.stop_accepting()

    async def close(self) -> None:
        """End all connections."""
        self.cancel_logins()
        if hasattr(self, "_listener"):
            self.broker.stopping = True
            if self._certificates is not None:
                self._certificates.close()
            await asyncio.gather(self._listener.close(), self._http.close())
            self._guard.close()

    # --- called by the core

    def on_empty(self) -> None:
        """The last connection of one of the ports is gone."""
        self._listener.on_empty()
        self._http.on_empty()

    def origin_allowed(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of this origin may open a websocket."""
        return self._http.origin_allowed(headers)

    def on_open(self, connection: Connection) -> None:
        """A client has logged in: it gets its session, then everybody else is told."""
        self.broker.start(connection)
        super().on_open(connection)

    async def _ask(self, connection: Connection, auth_data: Any) -> AuthResult:
        handshake = connection.handshake_data
        known = {key: handshake[key] for key in ("remoteAddress", "headers")}
        self.logger.debug("REQUEST", str(known["remoteAddress"]))
        known["clientId"] = connection.extra.client_id
        result = await self.services.authentication.is_valid_user(known, auth_data)
        if result is FAULT:
            connection.extra.unavailable = True
        return AuthResult(False) if result is None else result

    def log_repeated(self, connection: Connection, what: str, name: str) -> None:
        """In MQTT a repeated subscription is nothing special."""

    def log_too_many_attempts(self, connection: Connection) -> None:
        """There is one attempt; that it was refused has been told."""

    def log_too_large(self, connection: Connection) -> None:
        """A packet exceeded maxMessageSize."""
        limit = self.options.max_message_size
        text = f"packet of {self._who(connection)} exceeds {limit} bytes"
        self._guard.error(self._who(connection), "ERROR", text)

    def log_heartbeat(self, connection: Connection) -> None:
        """A connection has gone silent."""
        text = f"nothing came from {self._who(connection)} for too long"
        self._guard.info(self._who(connection), "CONNECTION_ERROR", text)

    def log_taken_over(self, connection: Connection) -> None:
        """A client has connected again, with the same id."""
        text = f"{connection.user_id} has connected again as {connection.extra.client_id}"
        self._guard.info(self._who(connection), "INFO", text)

    def log_refused(self, connection: Connection, topic: int, action: int, name: str) -> None:
        """A publish was refused, which MQTT has no answer for."""
        event = (EventAction if topic == Topic.EVENT else RecordAction)(action).name
        what = "event" if topic == Topic.EVENT else "record"
        self._guard.warn(self._who(connection), event, f"{self._who(connection)} published the {what} {name}")


class _Decider:
    """Asks the permission gate whether a client could subscribe to the events of a name."""

    def __init__(self, router: MessageRouter) -> None:
        self._gate = router.gate

    @classmethod
    def of(cls, router: MessageRouter) -> _Decider | None:
        """None if everything is allowed."""
        return None if router.gate is None else cls(router)

    def __call__(self, connection: Connection, name: str) -> bool | asyncio.Future[bool]:
        message = Message(Topic.EVENT, EventAction.SUBSCRIBE, name=name)
        answer = self._gate.ask(connection, message)
        if isinstance(answer, Decision):
            return answer is Decision.ALLOWED
        return asyncio.ensure_future(self._wait(connection, message, answer))

    async def _wait(self, connection: Connection, message: Message, answer: Any) -> bool:
        return await self._gate.answer(connection, message, answer) is Decision.ALLOWED
