"""What the machine can do at best: a product of large matrices, and copying memory with all threads.

Each side measures both with its own means, and the better of the two counts.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import devices
from ..case import Case, Work
from .common import library, random


def cases(name: str, size: int = 2048, megabytes: int = 256) -> dict[str, Case]:
    """size: of the square matrices. megabytes: that are copied."""
    if devices.now.cuda:
        return {
            "product": Case(lambda: _product_on_device(name, 4 * size)),
            "copy": Case(lambda: _copy_on_device(name, 4 * megabytes * 2**20)),
        }
    return {
        "product": Case(lambda: _product(name, size)),
        "copy": Case(lambda: _copy(name, megabytes * 2**20)),
    }


def _product(name: str, size: int) -> Work:
    a, b, out = random(size, size), random(size, size, seed=1), np.empty((size, size), np.float32)
    multiply: Any = np.matmul
    if name != "minidl":
        import torch

        a, b, out = map(torch.from_numpy, (a, b, out))
        multiply = torch.matmul

    def step() -> None:
        multiply(a, b, out=out)

    return Work(step, flops=2.0 * size**3)


def _copy(name: str, nbytes: int) -> Work:
    source, target = np.ones(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
    if name != "minidl":
        import torch

        a, b = map(torch.from_numpy, (source, target))

        def step() -> None:
            b.copy_(a)

    else:
        threads = int(os.environ["OMP_NUM_THREADS"])
        parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
        pool = ThreadPoolExecutor(threads)

        def step() -> None:
            list(pool.map(lambda part: np.copyto(*part), parts))  # without the GIL

    return Work(step, bytes=2.0 * nbytes)


def _product_on_device(name: str, size: int) -> Work:
    """float32, or the type whose bits the precision leaves, where the library has it."""
    lib = library(name)
    a, b = (lib.tensor(random(size, size, seed=i)) for i in (0, 1))
    low = devices.LOW.get(devices.now.precision)
    if low is not None:
        a, b = (x.to(getattr(lib.dl, low)) for x in (a, b))
    if name == "minidl":
        return Work(lambda: _nothing(a.data @ b.data), flops=2.0 * size**3)
    if devices.now.precision == "medium":
        a, b = a.bfloat16(), b.bfloat16()
    return Work(lambda: _nothing(lib.dl.matmul(a, b)), flops=2.0 * size**3)


def _copy_on_device(name: str, nbytes: int) -> Work:
    lib = library(name)
    source, target = (lib.tensor(np.zeros(nbytes // 4, np.float32)) for _ in range(2))

    def step() -> None:
        if name == "minidl":
            target.data[...] = source.data
        else:
            target.copy_(source)

    return Work(step, bytes=2.0 * nbytes)


def _nothing(_: Any) -> None:
    """Results of the two sides are not compared: each makes its own best."""
