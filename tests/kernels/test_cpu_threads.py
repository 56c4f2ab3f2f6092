"""The one place that decides on threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl.kernels.cpu import recycle, threads


def run(code: str, **environment: str) -> str:
    """What a new process prints."""
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    env = {k: v for k, v in os.environ.items() if k not in names} | environment
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- how many
def test_the_number_can_be_set_and_is_checked() -> None:
    before = threads.get_num_threads()
    with threads.limited(1):
        assert threads.get_num_threads() == threads.count() == threads.worth(10**9, 1) == 1
    assert threads.get_num_threads() == before
    most = threads.most()
    for wrong in (0, -1, most + 1):
        with pytest.raises(ValueError, match=f"number is {wrong}: it must be between 1 and {most}"):
            threads.set_num_threads(wrong)
    for odd in (1.0, "2", True, None):
        with pytest.raises(TypeError, match="whole number of threads"):
            threads.set_num_threads(odd)
    assert threads.get_num_threads() == before


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_waiting_threads_sleep_unless_the_user_has_decided(given: dict[str, str]) -> None:
    """What number of spins OpenMP is started with, and that the process keeps its environment."""
    code = (
        "import os, numba; from minidl.kernels.cpu import threads; seen = [];"
        "numba.get_num_threads = lambda: seen.append(os.environ.get('GOMP_SPINCOUNT'));"
        "threads.start_threads(); print(seen, 'GOMP_SPINCOUNT' in os.environ)"
    )
    assert run(code, **given) == ("[None] False" if given else "['10000'] False")


def test_the_environment_limits_the_default() -> None:
    code = "from minidl.kernels.cpu import threads as t; print(t.get_num_threads(), t.most())"
    cores = threads.available()
    assert run(code) == f"{cores} {cores}"
    assert run(code, OMP_NUM_THREADS="1") == f"1 {cores}"
    assert run(code, OMP_NUM_THREADS="1,2") == f"1 {cores}"
    assert run(code, NUMBA_NUM_THREADS="1") == "1 1"
    assert run(code, OMP_NUM_THREADS="9999") == f"{cores} {cores}"
    assert run(code, OMP_NUM_THREADS="nonsense") == f"{cores} {cores}"


def test_a_set_number_reaches_blas_and_numba() -> None:
    code = (
        "from minidl.kernels.cpu import threads as t\n"
        "import numba, scipy.linalg, threadpoolctl\n"
        "t.set_num_threads(1)\n"
        "found = {i['num_threads'] for i in threadpoolctl.threadpool_info() if i['user_api'] == 'blas'}\n"
        "print(found, numba.get_num_threads(), t.count())"
    )
    assert run(code) == "{1} 1 1"


def version_1(folder: str, quota: int) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ("4:cpu,cpuacct:/x\n1:name=systemd:/x", version_1("cpu/x", 300000), 3.0),
        ("4:cpu,cpuacct:/not/there", version_1("cpu,cpuacct", 50000), 0.5),
        ("4:cpu:/", version_1("cpu", -1), None),
        ("4:memory:/", version_1("cpu", 100000), None),
        ("0::/", {"cpu.max": "nonsense"}, None),
        ("0::/../outside", {"cpu.max": "100000 100000"}, 1.0),
    ],
)  # fmt: skip
def test_container_quota(group: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mounted" / name).write_text(text)
    (tmp_path / "cgroup").write_text(group)
    assert threads.container_quota(tmp_path / "cgroup", tmp_path / "mounted") == expected
    assert threads.container_quota(tmp_path / "missing", tmp_path / "mounted") is None


# ---- the pool
def test_every_task_is_done_once_and_sees_one_thread() -> None:
    done: list[Any] = []
    threads.share(lambda i: done.append((i, threads.count(), threading.get_ident())), 50, 4)
    assert sorted(i for i, _, _ in done) == list(range(50))
    assert {n for _, n, _ in done} == {1}
    assert threads.count() == threads.get_num_threads() or threads.count() >= 1


def test_several_threads_take_part() -> None:
    together = threading.Barrier(2, timeout=20)

    def task(i: int) -> None:
        together.wait()  # would time out in one thread

    threads.share(task, 2, 2)


def test_context_reaches_the_tasks() -> None:
    found = []

    def task(i: int) -> None:
        found.append(np.geterr()["divide"])
        time.sleep(0.01)

    with np.errstate(divide="raise"):
        threads.share(task, 8, 3)
    assert set(found) == {"raise"}


def test_an_error_in_a_task_is_raised_and_the_pool_goes_on() -> None:
    def task(i: int) -> None:
        if i == 3:
            raise KeyError("task 3")

    for workers in (1, 3):
        with pytest.raises(KeyError, match="task 3"):
            threads.share(task, 50, workers)
    done: list[int] = []
    threads.share(done.append, 5, 3)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_shares_of_several_threads_at_once() -> None:
    sums = [0] * 6

    def user(k: int) -> None:
        for _ in range(20):
            parts: list[int] = []
            threads.share(parts.append, 10, 4)
            sums[k] += sum(parts)

    users = [threading.Thread(target=user, args=(k,)) for k in range(6)]
    for u in users:
        u.start()
    for u in users:
        u.join(60)
    assert sums == [900] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_works() -> None:
    """After its parent used the pool, BLAS's threads and (compiled kernels) Numba's."""
    code = """
import os, sys, warnings, numpy as np, minidl, minidl.functional as F
warnings.simplefilter("ignore")
def work():
    x = minidl.Tensor(np.ones((4, 64, 64, 64), "float32")).requires_grad_()
    w = minidl.Tensor(np.ones((64, 64), "float32")).requires_grad_()
    y = F.max_pool2d(F.batch_norm(x.exp() * 2 + x, None, None, training=True), 2)
    ((y.reshape(-1, 64) @ w).sum() + x.sum()).backward()
    p = minidl.optim.Adam([x]); p.step()
    return float(np.abs(x.numpy()).sum())
a = work()
child = os.fork()
if child == 0:
    same = abs(work() - a) < 1e-3 * a
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == "0"


# ---- BLAS
def blas_numbers() -> list[int]:
    return [library.get_num_threads() for library in threads.blas.libraries()]


def test_blocks_of_blas_threads_nest_and_restore() -> None:
    before = blas_numbers()
    with threads.blas_threads(1):
        assert set(blas_numbers()) == {1}
        with threads.blas_threads(2), threads.single_threaded_blas:
            assert set(blas_numbers()) == {1}
        assert set(blas_numbers()) == {1}
    assert blas_numbers() == before
    with pytest.raises(ZeroDivisionError), threads.blas_threads(1):
        1 / 0  # noqa: B018
    assert blas_numbers() == before


# ---- memory
@pytest.mark.skipif(recycle._library() is None, reason="needs glibc")
def test_freed_memory_is_kept_and_given_back() -> None:
    code = """
import numpy as np
from minidl.kernels.cpu import recycle
assert recycle.keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
a = np.ones(2**24)
view = a[5:9]
del a
assert view.sum() == 4
stats = recycle.memory_stats()
assert stats["used"] > 2**27 and stats["peak"] > 2**27, stats
del view
kept = resident()
assert recycle.memory_stats()["cached"] > 2**27, recycle.memory_stats()
recycle.empty_cache()
assert resident() < kept - 2**26, (kept, resident())
assert recycle.memory_stats()["cached"] < 2**26
b = np.zeros(2**24)
assert not b.any()
print("fine")
"""
    assert run(code) == "fine"


def test_recycling_can_be_turned_off() -> None:
    code = "from minidl.kernels.cpu import recycle; print(recycle.keep_freed_memory())"
    assert run(code, MINIDL_RECYCLE="0") == "False"
    assert run(code, MALLOC_TRIM_THRESHOLD_="100000") == "False"
    assert run(code, GLIBC_TUNABLES="glibc.malloc.trim_threshold=100000") == "False"
