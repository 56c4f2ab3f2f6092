"""The terminal of a run, which may go away before the run is over."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from rich.console import Console


class Screen(Console):
    """A console that falls silent when nobody reads it any more (`minidl train ae | head`); the run goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except BrokenPipeError:  # rich before it had on_broken_pipe
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):  # no file behind it
            # or Python complains when it flushes at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
