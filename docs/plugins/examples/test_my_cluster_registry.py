import pytest
from my_cluster_registry import FixedCluster

from dsfast.plugin import PluginError
from dsfast.testing import ClusterRegistryConformance, started


class TestFixedCluster(ClusterRegistryConformance):
    plugin_class = FixedCluster

    @pytest.fixture
    def options(self):
        return {"servers": ["one", "two"]}


async def test_all_agree_about_the_leader():
    servers = ["b", "a", "c"]
    for name in servers:
        async with started(FixedCluster, {"servers": servers}, config={"serverName": name}) as registry:
            assert (registry.get_leader(), registry.is_leader()) == ("a", name == "a")


async def test_a_server_that_is_not_in_its_own_list():
    with pytest.raises(PluginError, match="option servers"):
        async with started(FixedCluster, {"servers": ["a"]}, config={"serverName": "b"}):
            pass
