"""Events over plain lines of text, for a telnet or a microcontroller.

A client sends its login data as JSON, then lines: ``SUB name``, ``UNSUB name``, ``PUB name json``. It gets
``OK``, ``ERROR text``, and ``EVENT name json``.
"""

import asyncio
import contextlib
import json

from dsfast._core.connection import Endpoint, VirtualConnection
from dsfast.endpoints.core_endpoint import CoreEndpoint
from dsfast.plugin import ConnectionListener
from dsfast.protocol import EventAction, Message, Topic
from dsfast.services.logger import FloodGuard

MAX_LINE = 65536
MAX_WAITING = 1 << 20
LOGIN_SECONDS = 10
ACTIONS = {"SUB": EventAction.SUBSCRIBE, "UNSUB": EventAction.UNSUBSCRIBE, "PUB": EventAction.EMIT}


class LinesEndpoint(CoreEndpoint):
    description = "lines"
    max_names = 100

    def init(self):
        router = self.services.message_distributor
        self.core = Endpoint(router.hub, router.wheel, router, self)
        self._guard = FloodGuard(self.logger)
        plugins = self.services.plugins.values()
        self.listeners = [plugin for plugin in plugins if isinstance(plugin, ConnectionListener)]
        self.server = None
        self.writers = set()

    async def when_ready(self):
        host, port = self.options.get("host", "127.0.0.1"), self.options.get("port", 6030)
        self.server = await asyncio.start_server(self.serve, host, port, limit=MAX_LINE)

    @property
    def addresses(self):
        return [sock.getsockname()[:2] for sock in self.server.sockets] if self.server else []

    def stop_accepting(self):
        if self.server is not None:
            self.server.close()

    async def close(self):
        for writer in self.writers:
            writer.close()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            login = await self.log_in(reader, writer)
            if login is not None:
                await self.talk(reader, writer, *login)
        except (ConnectionError, ValueError, TimeoutError):
            pass  # gone, a line that is too long, or nobody who logs in
        finally:
            self.writers.discard(writer)
            writer.close()

    async def log_in(self, reader, writer):
        """Any authentication works here: it gets the same two mappings as for every other protocol."""
        address = writer.get_extra_info("peername")[0]
        connection_data = {"remoteAddress": address, "headers": {}, "referer": None}
        async with asyncio.timeout(LOGIN_SECONDS):
            auth_data = json.loads(await reader.readline())
        result = None
        if isinstance(auth_data, dict):
            result = await self.services.authentication.is_valid_user(connection_data, auth_data)
        allowed = result is not None and result.is_valid
        self.services.monitoring.on_login(allowed, "lines")
        writer.write(b"OK\n" if allowed else b"ERROR login refused\n")
        return (result, connection_data) if allowed else None

    async def talk(self, reader, writer, result, connection_data):
        # A client of the core: permission, subscriptions, limits and order are the server's business.
        client = VirtualConnection(
            self.core,
            lambda message: self.answer(writer, message),
            user_id=result.id,
            server_data=result.server_data,
            handshake=connection_data,
        )
        for listener in self.listeners:
            listener.on_client_connected(client)
        try:
            while line := await reader.readline():
                message = self.parse(line)
                if message is None:
                    writer.write(b"ERROR what?\n")
                else:
                    client.handle(message)
                await writer.drain()
        finally:
            client.end()  # its subscriptions end
            for listener in self.listeners:
                listener.on_client_disconnected(client)

    def parse(self, line):
        with contextlib.suppress(ValueError, KeyError):
            word, name, *data = line.decode().strip().split(" ", 2)
            action = ACTIONS[word]
            if action == EventAction.EMIT:
                return Message(Topic.EVENT, action, name=name, data=data[0].encode() if data else None)
            return Message(Topic.EVENT, action, names=[name], correlation_id="1")
        return None

    def answer(self, writer, message):
        """Called by the core, for every message to this client."""
        if writer.transport.get_write_buffer_size() > MAX_WAITING:
            writer.transport.abort()  # it does not read
        elif message.topic == Topic.EVENT and message.action == EventAction.EMIT:
            writer.write(b"EVENT %s %s\n" % (message.name.encode(), message.data or b"null"))
        elif message.is_ack:
            writer.write(b"OK\n")
        else:
            writer.write(b"ERROR %s\n" % EventAction(message.action).name.encode())
