"""Tensor maps without a driver: what the shim reads in place of the 128 bytes that only a device understands."""

from __future__ import annotations

from typing import Any

import numpy as np

# struct TensorMapMirror of shim.h, field by field
MIRROR = np.dtype(
    [
        ("address", np.uint64), ("rank", np.int32), ("im2col", np.int32), ("type", np.int32), ("size", np.int32, 5),
        ("stride", np.int64, 4), ("box", np.int32, 3), ("lower", np.int8, 3), ("upper", np.int8, 3),
        ("step", np.int8, 3),
    ],
    align=True,
)  # fmt: skip


def tensor_map(out: np.ndarray, tensor: Any, address: int) -> None:
    """Packs a Tensor of kernels/cuda/tensor_map.py into these 128 bytes. Raises ValueError where the driver would
    refuse it."""
    from ...kernels.cuda.tensor_map import CORNERS, TYPES

    rank = len(tensor.sizes)
    if address % 16 or any(stride % 16 for stride in tensor.strides) or len(tensor.strides) != rank - 1:
        raise ValueError(f"a tensor map needs addresses and strides that 16 divides: {tensor} at {address:#x}")
    if tensor.corners is not None and not all(c in CORNERS for corner in tensor.corners for c in corner):
        raise ValueError(f"corners of an im2col map must be from {CORNERS[0]} to {CORNERS[-1]}: {tensor}")
    if max(tensor.box) > (1024 if tensor.corners else 256) or min(*tensor.sizes, *tensor.box) < 1:
        raise ValueError(f"a tensor map needs sizes from 1, boxes up to 256 and up to 1024 pixels: {tensor}")
    mirror = np.zeros((), MIRROR)
    mirror["address"], mirror["rank"], mirror["type"] = address, rank, TYPES[tensor.storage]
    mirror["im2col"] = tensor.corners is not None
    fields = {"size": tensor.sizes, "stride": tensor.strides, "box": tensor.box}
    if tensor.corners is not None:
        fields |= {"lower": tensor.corners[0], "upper": tensor.corners[1], "step": tensor.steps}
    for name, values in fields.items():
        mirror[name][: len(values)] = values
    out[: MIRROR.itemsize] = mirror.reshape(1).view(np.uint8)
