from my_cache import DictCache

from dsfast.testing import CacheConformance


class TestDictCache(CacheConformance):
    plugin_class = DictCache
