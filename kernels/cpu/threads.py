"""How many threads the CPU kernels use, and the rule that BLAS adds none of its own inside them.

One parallel region is Numba's, over tasks; each task calls a BLAS that must stay on its own thread, or 4 x 4 threads
fight for 4 cores. Numba takes OpenMP where it finds it (TBB before it, workqueue after it); nothing is forced.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_forked = False  # this process was forked after its parent had started threads


def _after_fork() -> None:
    global _forked
    _forked = True


@cache
def _limit() -> int:
    """The smallest of OMP_NUM_THREADS and Numba's own limit (NUMBA_NUM_THREADS, or the number of usable cores)."""
    import numba

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    most = numba.config.NUMBA_NUM_THREADS
    return min(int(outermost), most) if outermost.isdigit() else most


def count() -> int:
    """Threads that parallel kernels may use in the calling thread; inside of `region`, those that it allows."""
    import numba

    return max(1, min(_limit(), numba.get_num_threads()))


@contextmanager
def region(work: int, share: int) -> Iterator[None]:
    """Compiled kernels run on one thread for each `share` of the work, as far as there are any.

    The number is the user's, for this thread, and is put back. A region of one thread wakes no other.
    """
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(count(), work // share)))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def usable() -> bool:
    """Whether compiled kernels may run: GNU OpenMP kills a forked child that enters a parallel region."""
    return not _forked


class _SingleThreadedBLAS:
    """Context in which every loaded BLAS uses one thread. The first to enter sets it, the last to leave restores it.

    Set per call, which costs about 10 us, and not once for good: SciPy's BLAS also serves the user's scipy.linalg.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            if self._libraries is None:
                # looked up late and once (milliseconds): by now the kernels have loaded SciPy's
                from threadpoolctl import ThreadpoolController

                self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
            self._before = [library.get_num_threads() for library in self._libraries]
            for library in self._libraries:
                library.set_num_threads(1)

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for library, number in zip(self._libraries or (), self._before, strict=True):
                    library.set_num_threads(number)


single_threaded_blas = _SingleThreadedBLAS()
