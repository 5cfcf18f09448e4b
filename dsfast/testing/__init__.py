"""The test kit for plugins: what a plugin has to do, as tests, and ways to make its server fail.

Needs pytest and pytest-asyncio. A plugin's author subclasses a suite and names the class and its options::

    class TestMine(CacheConformance):
        plugin_class = MyCache

        @pytest.fixture
        def options(self, my_port):
            return {"port": my_port}
"""

from dsfast.testing.authentication import AuthenticationConformance
from dsfast.testing.bus import MemoryNode
from dsfast.testing.cache import CacheConformance
from dsfast.testing.cluster import ClusterNodeConformance, ClusterRegistryConformance
from dsfast.testing.local import LocalClient
from dsfast.testing.locks import LockConformance
from dsfast.testing.permission import PermissionConformance
from dsfast.testing.plugins import PATIENCE, MemoryLogger, plugin_services, started
from dsfast.testing.proxy import FaultProxy
from dsfast.testing.server import LoginRefused, ServedClient, ServedServer, served
from dsfast.testing.sockets import FakeSocket
from dsfast.testing.states import StateRegistryConformance
from dsfast.testing.storage import StorageConformance
from dsfast.testing.subscriptions import SubscriptionRegistryConformance

__all__ = [
    "PATIENCE",
    "AuthenticationConformance",
    "CacheConformance",
    "ClusterNodeConformance",
    "ClusterRegistryConformance",
    "FakeSocket",
    "FaultProxy",
    "LocalClient",
    "LockConformance",
    "LoginRefused",
    "MemoryLogger",
    "MemoryNode",
    "PermissionConformance",
    "ServedClient",
    "ServedServer",
    "StateRegistryConformance",
    "StorageConformance",
    "SubscriptionRegistryConformance",
    "plugin_services",
    "served",
    "started",
]
