"""The cache plugin: see `plugins.cache.plugin`."""

from plugins.cache.plugin import Cache
from plugins.cache.settings import CacheSettings

__all__ = ["Cache", "CacheSettings"]
