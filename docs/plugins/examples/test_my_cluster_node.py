import asyncio

from my_cluster_node import UdpNode

from dsfast.testing import PATIENCE, started


async def test_two_nodes():
    options = {"port": 0, "peers": []}
    async with (
        started(UdpNode, options, config={"serverName": "one"}) as one,
        started(UdpNode, options, config={"serverName": "two"}) as two,
    ):
        one.peers = two.peers = [("127.0.0.1", one.port), ("127.0.0.1", two.port)]
        inbox = asyncio.Queue()
        one.subscribe(9, lambda message, sender: inbox.put_nowait(("one", message["n"], sender)))
        two.subscribe(9, lambda message, sender: inbox.put_nowait(("two", message["n"], sender)))
        one.transport.sendto(b"nonsense", ("127.0.0.1", two.port))
        one.send({"topic": 9, "n": 1})  # for all others, never for itself
        one.send_direct("three", {"topic": 9, "n": 2})
        two.send_direct("one", {"topic": 9, "n": 3})
        one.send({"topic": 9, "n": 4})
        async with asyncio.timeout(PATIENCE):
            found = [await inbox.get() for _ in range(3)]
        assert sorted(found) == [("one", 3, "two"), ("two", 1, "one"), ("two", 4, "one")]
