"""Compression of response bodies. See `plugin`."""

from plugins.compression.plugin import Compression

__all__ = ["Compression"]
