"""Single instructions of Hopper: what shared memory holds before a product of a warpgroup, and what each thread must
have then; what a copy of a tensor's box must leave there. Written from the PTX manual (asynchronous warpgroup-level
matrix instructions, tensors), apart from the shim and the kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidl.kernels.cuda import launch, tensor_map

SIDE, THREADS, SUMS = 64, 128, 32  # 64 x 64 products: 32 sums for each of 128 threads
ATOM = 1024  # bytes: eight rows of 128


class Kind(NamedTuple):
    """number: what wgmma.cu calls it. columns: rows of the factors run along m and n."""

    number: int
    dtype: str  # float32 for TF32; uint16 for the upper halves of floats
    columns: bool


KINDS = {
    "tf32": Kind(0, "float32", False),
    "f16": Kind(1, "float16", False),
    "bf16": Kind(2, "uint16", False),
    "f16, columns": Kind(3, "float16", True),
    "bf16, columns": Kind(4, "uint16", True),
    "tf32, registers": Kind(5, "float32", False),
}


def source() -> str:
    text = (Path(__file__).parent / "kernels" / "wgmma.cu").read_text()
    for header in ("numbers.cuh", "ptx.cuh", "gemm.cuh", "wgmma.cuh", "tma.cuh"):
        text = text.replace(f'#include "{header}"', launch.source(header))
    return text


def swizzled(address: int) -> int:
    """128-byte swizzle: bits 4 to 6 of an address, exclusive or bits 7 to 9."""
    return address ^ (address >> 7 & 7) << 4


def numbers(dtype: str, rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(SIDE, k) random numbers as they are stored, and what the tensor cores take them for."""
    x = rng.standard_normal((SIDE, k), np.float32)
    if dtype == "float32":
        return x, (x.view("u4") & 0xFFFFE000).view("f4").astype("f8")  # TF32: 13 bits are cut off
    if dtype == "float16":
        return x.astype("f2"), x.astype("f2").astype("f8")
    stored = (x.view("u4") >> 16).astype("u2")
    return stored, (stored.astype("u4") << 16).view("f4").astype("f8")


def image(matrix: np.ndarray, columns: bool) -> np.ndarray:
    """The bytes of a factor (64, k) in shared memory, from an address that ATOM divides: a row of 128 bytes for each
    m, or (columns) for each k; byte for byte where the swizzle puts them."""
    rows = np.ascontiguousarray(matrix.T if columns else matrix)
    assert rows.shape[1] * rows.itemsize == 128
    plain = rows.view("u1").reshape(-1)
    out = np.zeros_like(plain)
    for address in range(plain.size):
        out[swizzled(address)] = plain[address]
    return out


class Case(NamedTuple):
    """Arguments of `products`, the bytes of shared memory, and the product (64, 64)."""

    image: np.ndarray
    a: int
    b: int
    next: int
    steps: int
    expected: np.ndarray


def case(kind: Kind, seed: int = 0) -> Case:
    """Both factors, one behind the other; four products in a row, as far as 128 bytes of k (64 k for columns) reach."""
    rng = np.random.default_rng(seed)
    k = 64 if kind.columns else 128 // np.dtype(kind.dtype).itemsize
    (a, left), (b, right) = (numbers(kind.dtype, rng, k) for _ in range(2))
    memory = np.concatenate([image(a, kind.columns), image(b, kind.columns)])
    stride, mode = (ATOM >> 4) << 32, 1 << 62  # from eight rows to the next; swizzle of 128 bytes
    descriptor = lambda start: start >> 4 | 1 << 16 | stride | mode
    # along k: 32 bytes of a row; columns: 16 rows of 128 bytes
    step = 16 * 128 if kind.columns else 32
    return Case(memory, descriptor(0), descriptor(memory.size // 2), step >> 4, 4, left @ right.T)


def run(kernel: Callable[..., None], array: Callable, host: Callable, kind: Kind, one: Case) -> np.ndarray:
    """What each thread gets, (128, 32). array, host: to the device and back."""
    d = array(np.zeros((THREADS, SUMS), np.float32))
    kernel(
        (1,), (THREADS,),
        (array(one.image.view("u4")), np.int32(one.image.size), d, np.uint64(one.a), np.uint64(one.b),
         np.int32(one.next), np.int32(one.steps), np.int32(kind.number)),
        shared_mem=one.image.size,
    )  # fmt: skip
    return host(d)


def places() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each thread's sums, (128, 32) each: warp w has rows 16 w to 16 w + 15."""
    thread, e = np.arange(THREADS)[:, None], np.arange(SUMS)[None]
    row = thread // 32 * 16 + thread % 32 // 4 + e // 2 % 2 * 8
    column = e // 4 * 8 + thread % 4 * 2 + e % 2
    return row + 0 * e, column + 0 * thread


def explain(expected: np.ndarray, found: np.ndarray) -> str:
    """Where the numbers that threads hold stand in the product: the layout as it is, for whoever has to mend it."""
    near = 1e-4 * abs(expected).max()
    row, column = places()
    lines = [f"{(abs(expected[row, column] - found) > near).sum()} of {found.size} sums are not the expected ones"]
    for thread in (0, 1, 4, 31, 32, 127):
        seen = []
        for e in range(8):
            at = np.argwhere(abs(expected - found[thread, e]) <= near / 50)
            seen.append(f"({', '.join(map(str, at[0]))})" if len(at) == 1 else f"{found[thread, e]:.4g}?")
        wanted = [f"({row[thread, e]}, {column[thread, e]})" for e in range(8)]
        lines.append(f"thread {thread}: holds {' '.join(seen)}\n{' ' * 8}expected {' '.join(wanted)}")
    return "\n".join(lines)


def check(found: np.ndarray, one: Case) -> None:
    row, column = places()
    wrong = abs(one.expected[row, column] - found) > 1e-4 * abs(one.expected).max()
    assert not wrong.any(), explain(one.expected, found)


# ---- copies of the tensor memory accelerator ---------------------------------------------------------------------


class Copy(NamedTuple):
    """A tensor (N, D, H, W, C) of channels that do not fill the box. storage: as tensor_map.TYPES. first: (c, w, h, d,
    n) where the copy begins; off: (w, h, d)."""

    storage: str
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    steps: tuple[int, ...]
    first: tuple[int, ...]
    off: tuple[int, ...]


SHAPE, PIXELS = (2, 3, 5, 6), 64  # N, D, H, W
COPIES = {
    "all pixels": Copy("Half", (0, 0, 0), (0, 0, 0), (1, 1, 1), (0, 0, 0, 0, 0), (0, 0, 0)),
    "padding": Copy("Bfloat16", (-1, -1, -1), (-1, -1, -1), (1, 1, 1), (0, 2, 1, -1, 0), (2, 0, 1)),
    "steps": Copy("Half", (-1, -2, 0), (-2, 0, -1), (2, 3, 1), (64, 1, -2, 0, 0), (1, 2, 1)),
    "past the end": Copy("Half", (-1, -1, -1), (-1, -1, -1), (1, 1, 1), (0, -1, 3, 1, 1), (1, 1, 1)),
    "rounded to TF32": Copy("float", (-1, -1, -1), (-1, -1, -1), (1, 1, 1), (32, 0, 0, 0, 0), (1, 2, 0)),
}


def copied(cupy: Any, kernel: Callable[..., None], one: Copy) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pixels (PIXELS, 128 bytes) as a copy leaves them, the swizzle undone, and as they must be."""
    size = 4 if one.storage == "float" else 2
    box, channels = 128 // size, 72 if size == 2 else 40
    rng = np.random.default_rng(0)
    stored = rng.standard_normal((*SHAPE, channels), np.float32).view("u4")
    host = stored if size == 4 else (stored >> 16).astype("u2")
    x = cupy.asarray(host)
    sizes = (channels, *SHAPE[::-1])
    strides = tuple(int(np.prod(sizes[: axis + 1])) * size for axis in range(4))
    tensor = tensor_map.Tensor(one.storage, sizes, strides, (box, PIXELS), (one.lower, one.upper), one.steps)
    out = cupy.zeros(PIXELS * 32, np.uint32)
    numbers = map(np.int32, (PIXELS * 128, 1, *one.first, *one.off))
    kernel((1,), (THREADS,), (tensor_map.encoded(tensor, x), out, *numbers), shared_mem=PIXELS * 128 + 8)

    expected = np.zeros((PIXELS, box), host.dtype)
    c, *at = one.first
    last = [sizes[axis + 1] - 1 + one.upper[axis] for axis in range(3)]
    for row in range(PIXELS):
        w, h, d = (at[axis] + one.off[axis] for axis in range(3))
        if 0 <= w < sizes[1] and 0 <= h < sizes[2] and 0 <= d < sizes[3] and at[3] < SHAPE[0]:
            run = host[at[3], d, h, w, c : c + box]
            expected[row, : len(run)] = run
        for axis in range(3):
            at[axis] += one.steps[axis]
            if at[axis] <= last[axis]:
                break
            at[axis] = one.lower[axis]
        else:
            at[3] += 1
    if size == 4:  # to nearest, ties away from zero; ties are not among these numbers
        expected = (expected + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    plain = cupy.asnumpy(out).view("u1")[[swizzled(address) for address in range(PIXELS * 128)]]
    return plain.view(host.dtype).reshape(PIXELS, box), expected


def check_copied(found: np.ndarray, expected: np.ndarray) -> None:
    """Says of wrong rows which pixels they are."""
    wrong = np.flatnonzero((found != expected).any(1))
    lines = []
    for row in wrong[:12]:
        same = np.flatnonzero((expected == found[row]).all(1))
        first = np.flatnonzero(found[row] != expected[row])[0]
        seen = f"is row {same[0]}" if len(same) else f"differs from element {first} on: {found[row][first]:#x}"
        lines.append(f"row {row} {seen}, not {expected[row][first]:#x}")
    assert not len(wrong), f"{len(wrong)} of {PIXELS} rows are wrong\n" + "\n".join(lines)
