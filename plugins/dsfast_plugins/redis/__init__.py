"""Cache in Redis: one server, sentinels or a cluster (caches.md section 4). Needs ``dsfast[redis]``."""

from dsfast_plugins.redis.cache import RedisCache

__all__ = ["RedisCache"]
