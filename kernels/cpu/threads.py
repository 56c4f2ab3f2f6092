"""How many threads the CPU kernels use: the one place that decides.

Three kinds of threads compute: Numba's (compiled kernels), BLAS's (products of matrices), and a pool of Python threads
in which NumPy works on pieces of large arrays (`share`). Only one kind is at work at a time, each is told how many it
may be when it is asked for something, and that is never more than `get_num_threads()`: 4 x 4 threads do not fight for
4 cores. Numba takes OpenMP where it finds it (TBB before it, workqueue after it); nothing is forced.

Which bits come out may depend on the number of threads, never on which of them is faster.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import cache
from itertools import count as numbers
from pathlib import Path
from typing import Any

_chosen: int | None = None  # by set_num_threads
_here = threading.local()  # `most`: what a task of `share` may use
_pool: Any = None  # of Python threads
_pool_lock = threading.Lock()
_forked = False  # this process was forked after its parent had entered a region


# ---- how many there are
@cache
def available() -> int:
    """Cores that this process may use: those it may run on, or fewer where its container has a quota of CPU time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_quota()
    return cores if quota is None else max(1, min(cores, -int(-quota // 1)))


def container_quota(groups: str | Path = "/proc/self/cgroup", mounted: str | Path = "/sys/fs/cgroup") -> float | None:
    """CPUs' worth of time that control groups (Linux, version 1 or 2) leave to this process; None: no limit.

    A group's limit holds for the groups inside it as well, so the smallest on the way up counts.
    """
    try:
        lines = Path(groups).read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # version 2 has one tree and names no controllers; version 1 has a tree for each set of them
        roots = [Path(mounted)] if not controllers else [Path(mounted, name) for name in ("cpu", controllers)]
        for root in roots:
            place = root / path.lstrip("/")
            found += [_quota(folder) for folder in (place, *place.parents) if folder.is_relative_to(root)]
    return min((q for q in found if q is not None), default=None)


def _quota(folder: Path) -> float | None:
    """The limit that this control group sets itself."""
    try:
        if (folder / "cpu.max").exists():  # version 2: "max 100000" or "150000 100000"
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text().strip()  # version 1: -1 for no limit
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(limit) / int(period) if limit not in ("max", "-1") and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def _number(variable: str) -> int | None:
    """The number in an environment variable; OMP_NUM_THREADS may be a list, of which the first counts."""
    first = os.environ.get(variable, "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


@cache
def most() -> int:
    """What set_num_threads can reach: the `available` cores, or fewer if NUMBA_NUM_THREADS says so, which Numba cannot
    exceed."""
    return min(available(), _number("NUMBA_NUM_THREADS") or available())


@cache
def _default() -> int:
    return min(most(), _number("OMP_NUM_THREADS") or most())


def get_num_threads() -> int:
    """Threads that computations on the CPU use at most.

    The number from `set_num_threads`; else all cores that the process may use (its affinity and its container's quota
    of CPU time), or OMP_NUM_THREADS or NUMBA_NUM_THREADS if one of them is smaller.
    """
    return _chosen or _default()


def set_num_threads(number: int) -> None:
    """Let computations on the CPU use `number` threads, in this process: BLAS, compiled kernels, and operations on
    large arrays. Small work stays on one thread in any case.

    Raises ValueError for more threads than the process has cores (see `get_num_threads`): they would only wait for each
    other.
    """
    global _chosen
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"number is {number!r}; it must be a whole number of threads")
    if not 1 <= number <= most():
        why = " as NUMBA_NUM_THREADS limits them" if most() < available() else ""
        raise ValueError(f"number is {number}: it must be between 1 and {most()}, the cores of this process{why}")
    _chosen = number
    if numba := _numba():
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    blas.set(number)


@contextmanager
def limited(number: int | None) -> Iterator[None]:
    """Inside the block computations use `number` threads (None: what they used before)."""
    global _chosen
    if number is None:
        yield
        return
    chosen, before = _chosen, [(library, library.get_num_threads()) for library in blas.libraries()]
    compiled = numba.get_num_threads() if (numba := _numba()) else None
    try:
        set_num_threads(number)
        yield
    finally:
        _chosen = chosen
        if numba := _numba():
            numba.set_num_threads(compiled or numba.config.NUMBA_NUM_THREADS)
        for library, old in before:
            library.set_num_threads(old)


def _numba() -> Any:
    """Numba, if it has been imported (which takes half a second)."""
    numba = sys.modules.get("numba")
    if not hasattr(numba, "get_num_threads"):
        return None
    start_threads()
    return numba


@cache
def start_threads() -> None:
    """Start Numba's threads such that they soon sleep while they wait for work and for each other.

    Those of GNU's OpenMP would spin for 14 ms, and take the cores from those that compute: from the other kinds of
    threads, and on a machine that has other work from each other, where a step was seen to take ten times as long. They
    spin for half a millisecond, longer than what usually lies between two kernels: waking a thread that sleeps takes
    0.1 ms and more. The runtime reads the variable when it is loaded, here; a user who has set one of the two has
    decided.
    """
    import numba

    _watch_forks()
    undecided = "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ
    if undecided:
        os.environ["GOMP_SPINCOUNT"] = "10000"
    try:
        numba.get_num_threads()
    finally:
        if undecided:
            del os.environ["GOMP_SPINCOUNT"]


def count() -> int:
    """Threads that the calling thread may use now: inside of `region` those that it allows, in a task of `share` 1."""
    number = get_num_threads()
    if number > 1:
        number = min(number, getattr(_here, "most", number))
    if number > 1 and (numba := _numba()):  # the user may have given it a number of its own
        number = min(number, numba.get_num_threads())
    return number


def worth(work: int, share: int) -> int:
    """Threads for some work: one for each `share` of it, as far as there are any."""
    return 1 if work < 2 * share else min(count(), work // share)


# ---- threads of compiled kernels
class region:
    """Context in which `count()` is one thread for each `share` of the work, as far as there are any: what compiled
    kernels are called with. One thread wakes no other. It gives that number: `with region(…) as workers`.
    """

    def __init__(self, work: int, share: int):
        self.work = work
        self.share = share

    def __enter__(self) -> int:
        start_threads()
        self.before = getattr(_here, "most", most())
        _here.most = workers = worth(self.work, self.share)
        return workers

    def __exit__(self, *_: Any) -> None:
        _here.most = self.before


def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    global _forked
    _forked = True


def usable() -> bool:
    """Whether compiled kernels may run: GNU OpenMP kills a forked child that enters a parallel region. There, NumPy
    computes."""
    return not _forked


# ---- a pool of Python threads
def share(task: Callable[[int], None], tasks: int, workers: int | None = None) -> None:
    """task(0) … task(tasks - 1), in no order, by this thread and up to `workers` - 1 others (None: all there are).

    For work that lets go of the interpreter's lock, as NumPy does. The threads sleep while there is nothing to do, and
    whoever is free takes the next task: a core that is busy elsewhere delays one task, not all. Tasks see the caller's
    context variables, and `count()` is 1 for them. The first error is raised, once all threads have stopped.
    """
    workers = min(count() if workers is None else workers, tasks)
    if workers <= 1:
        for i in range(tasks):
            task(i)
        return
    following = numbers()
    wrong: list[BaseException] = []
    # emptied at the end: a thread that wakes late may hold on to `work` for a while, but not to the task's arrays
    held = [task]

    def work() -> None:
        before, _here.most = getattr(_here, "most", most()), 1
        try:
            while not wrong and (i := next(following)) < tasks:
                held[0](i)
        except BaseException as error:  # raised below, in the thread that asked
            wrong.append(error)
        finally:
            _here.most = before

    helpers = [_executor().submit(copy_context().run, work) for _ in range(workers - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun has nothing left to do
            helper.result()
    held.clear()
    if wrong:
        raise wrong[0]


def _executor() -> Any:
    """The pool; made when first needed, and again in a forked child, which has none of its parent's threads."""
    global _pool
    with _pool_lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(max(1, most() - 1), thread_name_prefix="minidl")
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


# ---- threads of BLAS
class _BLAS:
    """The number of threads of every loaded BLAS: NumPy and SciPy each bring one.

    Set for each block, which costs a few microseconds, and not once for good: they also serve the user's own calls.
    Where blocks of several Python threads overlap, the smallest number holds; the last to leave restores what was
    before the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: list[int] = []  # the limits of the blocks that are being executed
        self._before: list[tuple[Any, int]] = []
        self._now = 0  # what they are set to
        self._found: tuple[bool, list[Any]] | None = None

    def libraries(self) -> list[Any]:
        """Looked up late and once (milliseconds), and again when SciPy has been loaded since."""
        scipy = "scipy.linalg" in sys.modules
        if self._found is None or self._found[0] != scipy:
            from threadpoolctl import ThreadpoolController

            self._found = scipy, ThreadpoolController().select(user_api="blas").lib_controllers
        return self._found[1]

    def set(self, number: int) -> None:
        for library in self.libraries():
            if library.get_num_threads() != number:
                library.set_num_threads(number)

    def enter(self, number: int) -> None:
        # to ask a library takes a microsecond, so each is asked once
        with self._lock:
            if not self._inside:
                self._before = [(library, library.get_num_threads()) for library in self.libraries()]
                self._now = number
                for library, old in self._before:
                    if old != number:
                        library.set_num_threads(number)
            self._inside.append(number)
            self._agree()

    def leave(self, number: int) -> None:
        with self._lock:
            self._inside.remove(number)
            if self._inside:
                self._agree()
                return
            for library, old in self._before:
                if old != self._now:
                    library.set_num_threads(old)

    def _agree(self) -> None:
        """On the smallest number."""
        least = min(self._inside)
        if least != self._now:
            self._now = least
            self.set(least)


blas = _BLAS()


class blas_threads:
    """Context in which every BLAS uses this many threads."""

    def __init__(self, number: int):
        self.number = number

    def __enter__(self) -> None:
        blas.enter(self.number)

    def __exit__(self, *_: Any) -> None:
        blas.leave(self.number)


ALONE = 2**18  # multiply-adds up to which OpenBLAS itself takes one thread


def small_blas(work: int) -> Any:
    """A context for a small product: BLAS on one thread. Others would spin while they wait for the next one, and take
    the cores from compiled kernels."""
    return single_threaded_blas if work > ALONE else nullcontext()


single_threaded_blas = blas_threads(1)  # around compiled kernels whose threads each call it
