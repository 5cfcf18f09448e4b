from contextlib import AsyncExitStack

import pytest
from my_cluster_node import TcpNode

from dsfast.testing import ClusterNodeConformance, started


class TestTcpNode(ClusterNodeConformance):
    plugin_class = TcpNode

    @pytest.fixture
    def options(self):
        return {"port": 0, "peers": []}

    @pytest.fixture
    async def nodes(self, options):
        """Three of them, each on a port of its own."""
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(started(TcpNode, options, config={"serverName": name}))
                for name in ("one", "two", "three")
            ]
            for node in nodes:
                for other in nodes:
                    node.connect("127.0.0.1", other.port)  # itself too: it has to be ignored
            yield nodes


async def test_nonsense_from_anybody_is_ignored():
    async with started(TcpNode, {"port": 0, "peers": []}) as node:
        for data in (b"", b"nonsense", b"[]", b"{}", b'{"message": {}, "fromServer": 5}', b"null"):
            node.take(data)
