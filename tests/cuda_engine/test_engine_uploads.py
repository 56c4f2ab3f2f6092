"""Arrays that travel to the device while it computes, on the stand-in: a copy from pinned memory is as late there as
can be, and memory that somebody gave back holds something else."""

from __future__ import annotations

import gc
import json
from typing import Any

import numpy as np
import pytest

import minidl
from minidl.checking import cuda_host
from minidl.core import uploads
from minidl.data import ArrayDataset, DataLoader


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


def dataset(count: int = 23) -> ArrayDataset:
    x = np.random.default_rng(0).standard_normal((count, 3, 2))
    return ArrayDataset(x.astype("float32"), np.arange(count))


def read(batches: Any) -> list[list[np.ndarray]]:
    return [[a.get() if hasattr(a, "get") else np.array(a) for a in batch] for batch in batches]


def same(found: list[list[np.ndarray]], expected: list[list[np.ndarray]]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(a.dtype == b.dtype and (a == b).all() for f, e in pairs for a, b in zip(f, e, strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_arrive_whole_and_in_order(cupy, workers):
    for drop_last in (False, True):
        here, there = (DataLoader(dataset(), 4, shuffle=True, drop_last=drop_last, num_workers=w) for w in (0, workers))
        for _ in range(3):
            expected = read(here)
            cupy.waits.clear()
            found = []
            for batch in there.on("cuda:1"):
                assert all(a.device.id == 1 for a in batch)
                with cupy.cuda.Device(1):
                    found.append([a + 0 for a in batch])
                del batch
            assert not cupy.waits
            assert same(read(found), expected)
        there.close()


def test_who_does_not_wait_for_a_batch_finds_nothing(cupy):
    uploader = uploads.uploader("cuda")
    assert uploads.uploader("cuda:0") is uploader is not uploads.uploader("cuda:1")
    sent = uploader.send([np.ones(5)])
    assert np.isnan(sent.arrays[0].get()).all()
    assert uploader.receive(sent)[0].get().tolist() == [1] * 5


def test_a_buffer_is_not_filled_before_it_was_read(cupy, monkeypatch):
    """Many copies are under way; each finds what it was sent. Without the events they do not."""

    def all_found() -> bool:
        staging, stream = uploads.Staging(), cupy.cuda.Stream(non_blocking=True)
        targets = [cupy.empty(4, "float32") for _ in range(3 * uploads.BUFFERS)]
        for i, target in enumerate(targets):
            staging.send(np.full(4, i, "float32"), target, stream)
        stream.synchronize()
        return all((t.get() == i).all() for i, t in enumerate(targets))

    cupy.waits.clear()
    assert all_found()
    assert 0 < sum("Event.synchronize" in w for w in cupy.waits) <= 2 * uploads.BUFFERS
    monkeypatch.setattr(cupy.cuda.Event, "done", True)
    assert not all_found()


def test_buffers_are_used_again(cupy):
    staging, target = uploads.Staging(), cupy.empty(100, "float32")
    for i in range(20):
        staging.send(np.full(100, i, "float32"), target, cupy.cuda.get_current_stream())
        assert (target.get() == i).all()
    assert len(staging._buffers) == 1
    staging.send(np.zeros(0, "float32"), cupy.empty(0, "float32"), cupy.cuda.get_current_stream())


def test_the_position_is_that_of_the_batches_handed_out(cupy):
    loader, whole = DataLoader(dataset(), 4, shuffle=True, seed=3), read(DataLoader(dataset(), 4, shuffle=True, seed=3))
    found = []
    for i, batch in enumerate(loader.on("cuda")):
        found.append([a.get() for a in batch])
        if i == 2:
            break
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["position"] == 3
    again = DataLoader(dataset(), 4, shuffle=True, seed=3)
    again.load_state_dict(state)
    assert same(found + read(again.on("cuda")), whole)


# ---- pinned memory
def test_pinned_batches_go_without_waiting(cupy):
    plain, loader = DataLoader(dataset(), 4), DataLoader(dataset(), 4, pin_memory=True)
    expected, found = read(plain), []
    for batch in loader:
        assert all(type(a) is np.ndarray and uploads.is_pinned(a) and uploads.is_pinned(a[1:]) for a in batch)
        cupy.waits.clear()
        moved = [minidl.as_tensor(a).to("cuda", non_blocking=True) for a in batch]
        assert not cupy.waits
        del batch  # the copy is still under way
        gc.collect()
        found.append([t.numpy() for t in moved])
    assert same(found, expected)


def test_pinned_memory_of_a_copy_under_way_is_kept(cupy, monkeypatch):
    """And if it were not, the test would notice."""

    def sent() -> np.ndarray:
        x = uploads.pinned(np.arange(6.0))
        y = minidl.as_tensor(x).to("cuda", non_blocking=True)
        del x
        gc.collect()
        return y.numpy()

    assert sent().tolist() == [0, 1, 2, 3, 4, 5]

    class Forgetful(list):
        def append(self, item: Any) -> None:
            pass

    monkeypatch.setattr(uploads, "_under_way", Forgetful())
    assert np.isnan(sent()).all()


def test_who_may_change_a_pinned_array_waits(cupy):
    x = uploads.pinned(np.ones(4))
    cupy.waits.clear()
    y = minidl.as_tensor(x).to("cuda")
    assert len(cupy.waits) == 1
    x[...] = 2
    assert y.numpy().tolist() == [1] * 4
    z = minidl.as_tensor(x).to("cuda", non_blocking=True)
    x[...] = 3  # what the user was asked not to do
    assert z.numpy().tolist() == [3] * 4


def test_ordinary_memory_may_be_changed_at_once(cupy):
    x = np.ones(4)
    y = minidl.as_tensor(x).to("cuda", non_blocking=True)
    x[...] = 2
    assert y.numpy().tolist() == [1] * 4 and not uploads.is_pinned(x)


def test_gradients_travel_back(cupy):
    x = minidl.as_tensor(uploads.pinned(np.arange(3.0))).requires_grad_()
    (x.to("cuda", non_blocking=True) ** 2).sum().backward()
    assert x.grad.tolist() == [0, 2, 4]


def test_without_a_device_pin_memory_changes_nothing():
    if minidl.cuda.is_available():
        pytest.skip("there is a device")
    loader = DataLoader(dataset(), 4, pin_memory=True)
    assert same(read(loader), read(DataLoader(dataset(), 4)))
    with pytest.raises(RuntimeError, match="minidl doctor"):
        next(loader.on("cuda"))
