"""Messages between the servers of a cluster, as UDP datagrams to a fixed list of them."""

import asyncio
import json

from dsfast.plugin import ClusterNode, PluginError

MAX_DATAGRAM = 60_000


class UdpNode(ClusterNode):
    description = "UDP"

    def __init__(self, options, services, config):
        super().__init__(options, services, config)
        try:
            self.port = int(options["port"])
            self.peers = [(host, int(port)) for host, port in (peer.split(":") for peer in options["peers"])]
        except (KeyError, ValueError, TypeError, AttributeError):
            raise PluginError("options port and peers: expected a number and a list of host:port") from None
        self.callbacks = {}  # other services subscribe in their constructors, before init
        self.transport = None

    async def when_ready(self):
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", self.port)
        )
        self.port = self.transport.get_extra_info("sockname")[1]

    async def close(self):
        if self.transport is not None:
            self.transport.close()

    def subscribe(self, topic, callback):
        self.callbacks.setdefault(topic, []).append(callback)

    def send(self, message):
        self.write({"fromServer": self.config.server_name, "message": message})

    def send_direct(self, server_name, message):
        self.write({"fromServer": self.config.server_name, "toServer": server_name, "message": message})

    def write(self, envelope):
        data = json.dumps(envelope).encode()
        if self.transport is None or len(data) > MAX_DATAGRAM:
            self.logger.warn("CLUSTER", f"a message of {len(data)} bytes was not sent")
            return
        for peer in self.peers:
            self.transport.sendto(data, peer)

    # The protocol of asyncio

    def connection_made(self, transport):
        pass

    def connection_lost(self, error):
        pass

    def error_received(self, error):
        pass  # a peer that is away; the cluster registry notices that it is silent

    def datagram_received(self, data, address):
        me = self.config.server_name
        try:
            envelope = json.loads(data)
            message, sender = envelope["message"], envelope["fromServer"]
            wanted = envelope.get("toServer", me) == me and sender != me
            callbacks = self.callbacks.get(message["topic"], ()) if wanted else ()
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # anybody can send us anything
        for callback in callbacks:
            callback(message, sender)
