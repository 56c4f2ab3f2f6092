"""What the stand-in says of CuPy, against CuPy itself where it is installed; it needs no device for that. And that the
stand-in refuses what it should: a stand-in that allows everything would find nothing."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from minidl.checking.cuda_host import stand_in
from minidl.checking.cuda_host.stand_in import FUNCTIONS, METHODS, MISSING, SCATTERING

ASK = """
import inspect, json, warnings
warnings.simplefilter("ignore")
import cupy
functions, methods, missing, scattering, cuda = json.loads(input())
print(json.dumps({
    "functions": {name: list(inspect.signature(getattr(cupy, name)).parameters) for name in functions},
    "methods": {name: (getattr(cupy.ndarray, name).__doc__ or "").split("\\n")[0] for name in methods},
    "missing": [name for name in missing if hasattr(cupy, name)],
    "cuda": [f"{name}.{part}" for name, parts in cuda.items() for part in parts
             if not hasattr(getattr(cupy.cuda, name), part)],
    "index": hasattr(cupy.ndarray, "__index__"),
    "weak references": cupy.ndarray.__weakrefoffset__ != 0,
}))
"""


CUDA = {  # what the engine uses of CuPy's classes and functions
    "Device": "id use synchronize attributes compute_capability",
    "Event": "record synchronize done",
    "Graph": "launch",
    "Memory": "size ptr",
    "MemoryPointer": "mem ptr",
    "MemoryPool": "malloc free_all_blocks",
    "Stream": "record wait_event synchronize begin_capture end_capture is_capturing",
    "alloc_pinned_memory": "",
    "get_current_stream": "",
    "get_elapsed_time": "",
    "using_allocator": "",
}


@pytest.fixture(scope="module")
def real():
    cuda = {name: parts.split() for name, parts in CUDA.items()}
    words = json.dumps([list(FUNCTIONS), list(METHODS), sorted(MISSING), list(SCATTERING), cuda])
    done = subprocess.run([sys.executable, "-c", ASK], input=words, capture_output=True, text=True, check=False)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_names_and_arguments_are_cupys(real):
    assert real["missing"] == real["cuda"] == [] and not real["index"] and real["weak references"]
    for name, arguments in FUNCTIONS.items():
        assert set(arguments.split()) <= set(real["functions"][name]), name
    for name, arguments in METHODS.items():
        found = re.search(r"\((.*)\)", real["methods"][name])
        if arguments and found:
            names = [part.split("=")[0].split()[-1].lstrip("*") for part in found[1].split(", ")]
            assert set(arguments.split()) <= set(names), (name, names)


def test_streams_graphs_and_memory_have_cupys_names(cupy):
    instances = {
        "Device": cupy.cuda.Device(), "Event": cupy.cuda.Event(), "Memory": cupy.cuda.Memory(8),
        "MemoryPool": cupy.cuda.MemoryPool(), "MemoryPointer": cupy.cuda.MemoryPool().malloc(8),
        "Stream": cupy.cuda.Stream(non_blocking=True), "Graph": cupy.cuda.Graph(),
    }  # fmt: skip
    for name, parts in CUDA.items():
        for part in parts.split():
            assert part == "ptr" or hasattr(instances[name], part), (name, part)
        assert hasattr(cupy.cuda, name)


@pytest.fixture
def cupy():
    with stand_in.installed() as library:
        yield library


def test_what_cupy_refuses_is_refused(cupy):
    x = cupy.arange(4.0)
    host = np.ones(4)
    for act, error in (
        (lambda: np.asarray(x), TypeError),
        (lambda: x + host, TypeError),
        (lambda: host * x, TypeError),
        (lambda: cupy.add(x, host), TypeError),
        (lambda: x[host.astype(int)], TypeError),
        (lambda: x.sum(where=x > 0), TypeError),
        (lambda: cupy.max(x, initial=0), TypeError),
        (lambda: cupy.argsort(x, kind="quicksort"), ValueError),
        (lambda: np.maximum.reduce(x), NotImplementedError),
        (lambda: cupy.errstate(), AttributeError),
        (lambda: x.ctypes, AttributeError),
        (lambda: x.resize(2), AttributeError),
        (lambda: x.flags.writeable, AttributeError),
        (lambda: range(x[1]), TypeError),
        (lambda: cupy.cuda.Device(5), cupy.cuda.runtime.CUDARuntimeError),
    ):
        with pytest.raises(error):
            act()


def test_a_device_that_is_not_current_is_refused(cupy):
    with cupy.cuda.Device(1):
        there = cupy.ones(3)
        view = there[1:]
    assert there.device.id == view.device.id == 1 and view.base is there
    for act in (lambda: there + 1, lambda: view.sum(), lambda: cupy.zeros(3) + there, lambda: there[0]):
        with pytest.raises(ValueError, match="different from the current device"):
            act()
    assert cupy.asarray(there).device.id == 0  # a copy from device to device
    assert there.get().tolist() == [1, 1, 1]


def test_views_know_their_base_as_cupys_do(cupy):
    x = cupy.zeros((2, 3))
    view = x[0][1:]
    assert view.base is x and x.base is None and x.reshape(3, 2).base is x
    assert x.astype(x.dtype, copy=False) is x and cupy.asarray(x) is x


def test_memory_is_counted_and_limited(cupy):
    gc.collect()
    before = cupy.memory.used
    x = cupy.zeros(1000)
    assert cupy.memory.used == before + 8000 and x[:10].base is x and cupy.memory.used == before + 8000
    cupy.memory.limit = before + 12_000
    with pytest.raises(stand_in.OutOfMemoryError, match="allocating 8,000 bytes"):
        x + 1
    del x
    assert cupy.memory.used == before


def test_results_of_ufuncs_are_c_contiguous(cupy):
    x = cupy.zeros((2, 3, 4)).transpose(0, 2, 1)
    for y in (x + 1, np.exp(x), cupy.tanh(x), cupy.where(x > 0, x, 1.0)):
        assert y.flags.c_contiguous and not x.flags.c_contiguous
    assert np.add(x, 1, out=x) is x and cupy.add(x, 1, out=x) is x and x.get().min() == 2
