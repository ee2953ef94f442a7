"""The files in memory that a process has open."""

from pathlib import Path


def memory_files(pid: int | str = "self") -> int:
    """How many of them hold answers of the fast lane."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += "memfd:sidecache-reply" in str(entry.readlink())
        except OSError:  # closed since; in this process, the directory's own
            continue
    return count
