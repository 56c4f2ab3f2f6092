"""Launchers of layout.cu: what surrounds the products of conv_gather.cu and conv_weight.cu."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..arrays import Array, namespace
from . import launch

ITEM = {"float": "float32", "double": "float64", "Half": "float16"}  # Bfloat16 may have no dtype: its bits are uint16


def array_type(storage: str, given: np.dtype) -> Any:
    """The dtype of an array of this storage: the `given` one if it says the same, else what there is for it."""
    return given if launch.STORAGE.get(given.name) == storage else np.dtype(ITEM.get(storage, "uint16"))


def _run(kernel: str, blocks: int, block: tuple[int, ...], source: str, target: str, *arguments: Any) -> None:
    import cupy

    options = (f"-DSource={source}", f"-DTarget={target}")
    launch.load("layout.cu", kernel, options, cupy.cuda.runtime.getDevice())((blocks,), block, arguments)


def prepared(name: str, x: Array, shape: tuple[int, ...], dtype: Any, storage: str, groups: int, padded: int) -> Array:
    """x (N, C, *S) as a product reads it: (N, *S, groups * padded) elements of `storage`, each group's channels filled
    up with zeros. It is x itself where that lies so already, else a copy by one kernel.

    Raises ValueError unless x has this shape.
    """
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}, its geometry says {shape}")
    xp = namespace(x)
    x = x.astype(dtype, copy=False)
    last = xp.moveaxis(x, 1, -1)
    batch, channels, *size = shape
    same = launch.STORAGE[x.dtype.name] == storage and groups * padded == channels
    if last.flags.c_contiguous and same and x.data.ptr % 16 == 0:
        return last
    planar = not last.flags.c_contiguous
    x = xp.ascontiguousarray(x) if planar else last
    out = launch.empty((batch, *size, groups * padded), array_type(storage, x.dtype))
    blocks = -(-groups * padded // 32) * -(-prod(size) // 32) * batch
    if blocks:
        numbers = map(np.int32, (batch, channels, prod(size), groups, padded, planar))
        _run("channels_last_kernel", blocks, (32, 8), launch.STORAGE[x.dtype.name], storage, x, out, *numbers)
    return out


def packed(w: Array, packing: np.ndarray, storage: str) -> Array:
    """The weights as rows of k; `packing` is struct Packed of layout.cu."""
    elements = int(packing["elements"])
    out = launch.empty((max(elements, 1),), array_type(storage, w.dtype))
    if elements:
        (blocks,), block = launch.plan(elements)
        _run("pack_kernel", blocks, block, launch.STORAGE[w.dtype.name], storage, w, out, packing)
    return out


def finish(parts: Array, bias: Array | None, y: Array, splits: int, relu: bool) -> None:
    """Adds the splits' sums into y, whose channels are innermost in memory, then bias and ReLU."""
    (blocks,), block = launch.plan(y.size)
    numbers = (np.int64(y.size), *map(np.int32, (splits, y.shape[1], bias is not None, relu)))
    storage = launch.STORAGE[y.dtype.name]
    _run("finish_kernel", blocks, block, storage, storage, parts, y if bias is None else bias, y, *numbers)


def finish_weight(parts: Array, w: Array, padded: int, splits: int) -> None:
    """Adds the splits' sums into w (F, channels, *k), C-contiguous."""
    filters, channels, *kernel = w.shape
    (blocks,), block = launch.plan(w.size)
    numbers = map(np.int32, (filters, channels, padded, prod(kernel), splits))
    storage = launch.STORAGE[w.dtype.name]
    _run("finish_weight_kernel", blocks, block, storage, storage, parts, w, *numbers)
