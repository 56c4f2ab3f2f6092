"""Every workload computes the same in minidl as in PyTorch, over two runs: the second shows what the first learned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl.bench.case import Case, Run
from minidl.bench.worker import find
from minidl.bench.workloads import WORKLOADS
from minidl.kernels.cpu.threads import limited

TINY = {
    "c3d": {"batch": 2, "frames": 4, "size": 32, "width": 4, "units": 32},
    "convgru": {"batch": 2, "frames": 3, "size": 6, "channels": 8},
    "dcgan": {"batch": 4, "size": 16, "width": 8},
    "conv-vae": {"batch": 4, "size": 8, "latent": 3},
    "mlp-vae": {"batch": 4, "size": 8, "hidden": 20},
    "autoencoder": {"batch": 4, "size": 8, "width": 64},
    "batch-norm": {"batch": 2, "channels": 4, "size": 6},
    "max-pool3d": {"batch": 2, "channels": 4, "frames": 4, "size": 6},
    "optimizers": {"parameters": 1000},
    "elementwise": {"elements": 1000},
    "mobilenet": {"batch": 2, "size": 16, "width": 4},
}
COUNTED = {"c3d", "convgru", "dcgan", "conv-vae", "mlp-vae", "autoencoder", "mobilenet"}  # the others move memory


@pytest.fixture(scope="module", autouse=True)
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with limited(1):  # two libraries in one process get into each other's way
        yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", TINY)
def test_both_versions_compute_the_same(name):
    place = WORKLOADS[name].place
    ours, theirs = (find(place)(library, **TINY[name]) for library in ("minidl", "torch"))
    assert ours.keys() == theirs.keys()
    for case in ours:
        for _ in range(2):
            mine, other = ours[case](check=True), theirs[case](check=True)
            assert mine.value > 0 and math.isclose(mine.value, other.value, rel_tol=1e-4), case
        assert (mine.flops > 0) == (name in COUNTED) and mine.bytes > 0


def test_a_training_step_learns():
    case = find(WORKLOADS["mlp-vae"].place)("minidl", **TINY["mlp-vae"])["training step"]
    values = [case(check=True).value for _ in range(30)]
    assert values[-1] < 0.8 * values[0]


def test_other_workloads_have_the_same_cases():
    for name in WORKLOADS.keys() - TINY.keys():
        assert list(find(WORKLOADS[name].place)("minidl")) == list(find(WORKLOADS[name].place)("torch"))


def test_operations_are_counted_as_by_hand():
    case = find(WORKLOADS["mlp-vae"].place)("minidl", **TINY["mlp-vae"])["training step"]
    pixels, hidden, latent, batch = 64, 20, 20, 4
    weights = pixels * hidden + 2 * hidden * latent + latent * hidden + hidden * pixels
    assert case().flops == 3 * 2 * batch * weights  # forward, and twice that backward


def test_a_case_is_prepared_once_and_not_timed():
    import time

    from minidl.bench.case import Work

    made = []

    def prepare():
        made.append(time.sleep(0.05))
        return Work(lambda: None, bytes=7)

    case = Case(prepare)
    runs = [case(), case(check=True)]
    assert len(made) == 1 and all(run.seconds < 0.05 for run in runs)
    assert runs[1]._replace(seconds=0) == Run(0, None, 0, 7)


def test_weights_depend_on_order_and_shapes_alone():
    import torch

    import minidl
    from minidl import nn
    from minidl.bench.workloads.common import set_parameters

    ours = set_parameters(minidl, nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    theirs = set_parameters(torch, torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
