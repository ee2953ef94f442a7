"""pybreaker without the Redis client that it imports when it finds one: 0.1 s of a processor and 5 MB at each start.

It can keep circuits in Redis, and asks for the client at import. It does without where importing that fails, which is
brought about here for the moment of the import. What has imported the client before keeps it, and pybreaker gets it.
"""

import sys

if "redis" in sys.modules:
    import pybreaker
else:
    sys.modules["redis"] = None  # type: ignore[assignment]  # Python's own way to say: this import fails
    try:
        import pybreaker
    finally:
        del sys.modules["redis"]

__all__ = ["pybreaker"]
