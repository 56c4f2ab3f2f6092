"""How much memory this process has had at most."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path


def forget_peak() -> None:
    """Let the peak start again from what is in use now, where the system allows it (Linux)."""
    with contextlib.suppress(OSError):  # else the peak since the process began counts, which is larger
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """The most bytes of memory that were in use at once (VmHWM, or ru_maxrss); None if the system does not tell."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # not a POSIX system
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_use() -> int | None:
    """Bytes of memory in use now; None if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak()
