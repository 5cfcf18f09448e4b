"""Cache in Redis: one server, sentinels or a cluster (caches.md section 4). Needs ``dsfast[redis]``."""

try:
    from dsfast_plugins.redis.cache import RedisCache
except ModuleNotFoundError as error:
    raise ImportError(f"the redis cache needs: pip install dsfast[redis] ({error})") from error

__all__ = ["RedisCache"]
