"""Messages between the servers of a cluster: lines of JSON over TCP, from each to each."""

import asyncio
import contextlib
import json

from dsfast.plugin import ClusterNode, PluginError

MAX_LINE = 1 << 26
MAX_WAITING = 10_000


class TcpNode(ClusterNode):
    description = "lines over TCP"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        try:
            self.port = int(options["port"])
            self.peers = [(host, int(port)) for host, port in (peer.split(":") for peer in options["peers"])]
        except (KeyError, ValueError, TypeError, AttributeError):
            raise PluginError("options port and peers: expected a number and a list of host:port") from None
        self.callbacks = {}  # other services subscribe in their constructors, before init
        self.queues = []
        self.tasks = set()
        self.server = None

    async def when_ready(self):
        self.server = await asyncio.start_server(self.receive, "127.0.0.1", self.port, limit=MAX_LINE)
        self.port = self.server.sockets[0].getsockname()[1]
        for host, port in self.peers:
            self.connect(host, port)

    async def close(self):
        if self.server is not None:
            self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def subscribe(self, topic, callback):
        self.callbacks.setdefault(topic, []).append(callback)

    def send(self, message):
        self.write({"fromServer": self.config.server_name, "message": message})

    def send_direct(self, server_name, message):
        self.write({"fromServer": self.config.server_name, "toServer": server_name, "message": message})

    def write(self, envelope):
        line = json.dumps(envelope).encode() + b"\n"
        for queue in self.queues:
            if queue.full():
                self.logger.warn("CLUSTER", "a peer does not read; a message to it is lost")
            else:
                queue.put_nowait(line)

    def connect(self, host, port):
        queue = asyncio.Queue(MAX_WAITING)
        self.queues.append(queue)
        self.tasks.add(asyncio.create_task(self.talk(host, port, queue)))

    async def talk(self, host, port, queue):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                try:
                    while True:
                        writer.write(await queue.get())
                        await writer.drain()
                finally:
                    writer.close()
            await asyncio.sleep(0.1)  # it is away; it may come back

    async def receive(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            while line := await reader.readline():
                self.take(line)
        except (ConnectionError, ValueError):
            pass  # a peer that is gone, or a line that is too long
        finally:
            self.tasks.discard(task)
            writer.close()

    def take(self, line):
        me = self.config.server_name
        try:
            envelope = json.loads(line)
            message, sender = envelope["message"], envelope["fromServer"]
            wanted = envelope.get("toServer", me) == me and sender != me
            callbacks = self.callbacks.get(message["topic"], ()) if wanted else ()
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # anybody can send us anything
        for callback in callbacks:
            try:
                callback(message, sender)
            except Exception as error:  # one that fails must not keep the others from being told
                self.logger.error("PLUGIN_ERROR", f"cluster node: {error!r}")
