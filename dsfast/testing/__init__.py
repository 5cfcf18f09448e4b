"""The test kit for plugins: what a plugin has to do, as tests, and ways to make its server fail.

Needs pytest and pytest-asyncio. A plugin's author subclasses a suite and names the class and its options::

    class TestMine(CacheConformance):
        plugin_class = MyCache

        @pytest.fixture
        def options(self, my_port):
            return {"port": my_port}
"""

from dsfast.testing.cache import CacheConformance
from dsfast.testing.plugins import PATIENCE, MemoryLogger, plugin_services, started
from dsfast.testing.proxy import FaultProxy
from dsfast.testing.server import LoginRefused, ServedClient, ServedServer, served
from dsfast.testing.storage import StorageConformance

__all__ = [
    "PATIENCE",
    "CacheConformance",
    "FaultProxy",
    "LoginRefused",
    "MemoryLogger",
    "ServedClient",
    "ServedServer",
    "StorageConformance",
    "plugin_services",
    "served",
    "started",
]
