"""Rules about the caching fields of responses. See `plugin`."""

from plugins.cache_control.plugin import CacheControl

__all__ = ["CacheControl"]
