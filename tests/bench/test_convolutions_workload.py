"""The products of convolutions beside the peer's, and how arrays lie on its side."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl.bench import devices, worker

torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")


@pytest.fixture(autouse=True)
def _as_before():
    before = devices.now
    yield
    devices.now = before


def test_products_are_those_of_the_peer():
    ours, theirs = (worker.find("convolutions:cases")(name, batch=1, divide=16) for name in ("minidl", "torch"))
    assert list(ours) == list(theirs)
    for title in [t for t in ours if "conv4a" in t]:
        devices.lay_out(True)
        other = theirs[title](check=True)
        assert math.isclose(ours[title](check=True).value, other.value, rel_tol=1e-5), title


def test_arrays_lie_channels_last_where_asked():
    devices.now = devices.Setting("torch", "cpu", "highest", True)
    x = devices.tensor(torch, np.zeros((2, 3, 4, 5, 6), np.float32), requires_grad=True)
    assert x.requires_grad and x.is_contiguous(memory_format=torch.channels_last_3d)
    turned = np.zeros((2, 4, 5, 3), np.float32).transpose(0, 3, 1, 2)
    assert devices.tensor(minidl, turned).data.strides == turned.strides
