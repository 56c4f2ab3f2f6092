"""`threaded` kernels: every thread's part runs once, with one thread or many, compiled now or read from the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import pytest

from minidl.kernels.cpu import threads as cpu_threads
from minidl.kernels.cpu.compile import threaded
from minidl.kernels.cpu.loops import portion


@threaded
def scaled(thread, threads, x, out, shift, factor):
    """out = factor * x + shift[1], and who computed it."""
    begin, end = portion(thread, threads, x.size)
    for i in range(begin, end):
        out[i] = factor * x[i] + shift[1]


@threaded
def visits(thread, threads, seen, counts):
    seen[thread] += 1
    counts[thread] = threads


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_make_up_the_whole(threads, dtype):
    x = np.arange(1001, dtype=dtype)
    x.flags.writeable = False
    out = np.full_like(x, -1)
    scaled(threads, x, out, (1, 2, 3), 0.5)
    np.testing.assert_array_equal(out, x * 0.5 + 2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_thread_comes_once(threads):
    for _ in range(50):
        seen, counts = np.zeros(threads, np.int64), np.zeros(threads, np.int64)
        visits(threads, seen, counts)
        assert (seen == 1).all() and (counts == threads).all()


@pytest.mark.parametrize("number", [0, 1, 5, 12])
def test_portions_are_even_and_leave_nothing_out(number):
    for threads in (1, 2, 3, 8):
        ends = [portion.py_func(thread, threads, number) for thread in range(threads)]
        assert ends[0][0] == 0 and ends[-1][1] == number
        assert all(a[1] == b[0] for a, b in pairwise(ends))
        assert max(high - low for low, high in ends) - min(high - low for low, high in ends) <= 1


def test_several_python_threads_at_once():
    x = np.arange(1000.0)
    outs = [np.empty_like(x) for _ in range(16)]
    cpu_threads.share(lambda i: scaled(1 + i % 3, x, outs[i], (0, i, 0), 2.0), len(outs))
    for i, out in enumerate(outs):
        np.testing.assert_array_equal(out, 2 * x + i)


def test_the_function_stays_recognisable():
    assert scaled.py_func.__name__ == "scaled" and scaled.py_func.__doc__.startswith("out = factor")
    assert scaled.py_func.__module__ == __name__


SCRIPT = """
    import sys

    import numpy as np

    from minidl.kernels.cpu.compile import cache_directory
    from minidl.kernels.cpu.windows import max_pool
    from minidl.warmup import compiling

    with compiling() as compiled:
        x, y, indices = np.arange(16, dtype="float32"), np.empty(4, "float32"), np.empty(4, "int32")
        x.flags.writeable = False
        size, half, two = (1, 4, 4), (1, 2, 2), (1, 2, 2)
        max_pool(int(sys.argv[1]), x, y, indices, 1, 1, size, half, two, two, (1, 1, 1), (0, 0, 0))
    assert y.tolist() == [5, 7, 13, 15] and indices.tolist() == [5, 7, 13, 15]
    print(*[name for name, _ in compiled.kernels])
    print(*sorted(path.name.split("-")[0] for path in cache_directory().iterdir()))
"""


FILES = ["windows.max_pool", "windows.max_pool.launch"]


def run(folder: Path, threads: int, before: str = "") -> list[str]:
    """What a process compiled for one call of a kernel, and the files of the cache after it."""
    command = [sys.executable, "-W", "error", "-c", before + textwrap.dedent(SCRIPT), str(threads)]
    home = {**os.environ, "MINIDL_CACHE_DIR": str(folder)}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=home).stdout.split()


def test_kept_on_disk_in_two_parts(tmp_path):
    """The call and what it calls are two files; either may be missing or damaged."""
    assert run(tmp_path, 2) == ["max_pool", *FILES]
    assert run(tmp_path, 1) == FILES  # nothing to compile
    for name in FILES:
        (gone,) = tmp_path.glob(f"*/{name}-*.bin")
        gone.unlink() if name.endswith("launch") else gone.write_bytes(b"damaged")
        assert run(tmp_path, 2)[-2:] == FILES
        assert run(tmp_path, 2) == FILES


def test_a_cache_that_is_read_only_is_read(tmp_path):
    run(tmp_path, 2)
    # permissions would not keep root from writing
    refusing = """
import tempfile
def refuse(*args, **options):
    raise OSError(30, "Read-only file system")
tempfile.TemporaryFile = refuse
"""
    assert run(tmp_path, 2, refusing) == FILES


def test_kernels_of_others_are_not_kept(tmp_path):
    """The cache's folder is named after this package's sources, which say nothing about a kernel from elsewhere."""
    before = """
from minidl.kernels.cpu.compile import jit
@jit
def twice(a):
    return a * 2
assert twice(3) == 6
"""
    assert run(tmp_path, 2, before) == ["max_pool", *FILES]


def test_parameters_may_have_any_name():
    @threaded
    def sums(thread, threads, start, part, launch):
        start[thread] = part + launch

    out = np.zeros(3)
    sums(3, out, 1.0, 2.0)
    assert out.tolist() == [3, 3, 3]


def test_a_team_leaves_numba_as_it_was():
    before = numba.get_num_threads()
    for threads in (1, 2, 3, 7):
        seen, counts = np.zeros(threads, np.int64), np.zeros(threads, np.int64)
        visits(threads, seen, counts)
    assert numba.get_num_threads() == before
