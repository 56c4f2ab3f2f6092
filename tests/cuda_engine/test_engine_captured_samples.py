"""Every primitive, function and layer in a captured step, on the stand-in for CuPy: a replay has the values and
gradients of the uncaptured call. What looks at numbers, or takes arrays of the host, says that it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_arrays import moved, outputs, parameters_on

import minidl
from minidl import graphs
from minidl.checking import cuda_host
from minidl.checking.sample import Case, Sample
from minidl.checking.samples import table
from minidl.core import Tensor
from minidl.kernels import capture

REASON = cuda_host.unavailable()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

# which hold devices or arrays of their own, or results that are no arrays
OPAQUE = {"transfer", "functional.batch_norm"} | {n for n in table() if n.endswith("_backward")}
OPAQUE |= {n for n in table() if n.partition(".")[2].lower().startswith("dropout")}  # they set the random stream
REFUSED = {  # in cases of these
    "getitem": "asks the device for a number",  # an index of booleans
    "scatter": "asks the device for a number",
    "functional.getitem": "sends an array from the host",  # an index of NumPy
}


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


def step_of(row: Sample, case: Case) -> Any:
    """A step without inputs: values and gradients of one case, all of whose arrays are on the device."""
    inputs = [moved(x, "cuda") for x in case.tensors()]
    call = row.function(replace(case, params={k: moved(v, "cuda") for k, v in case.params.items()}))
    seeds: list[Tensor] = []

    def step() -> list[Any]:
        fresh = [Tensor(x.data).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs]
        out = outputs(call(*fresh))
        flowing = [y for y in out if isinstance(y, Tensor) and y.requires_grad]
        leaves = [x for x in [*fresh, *case.parameters.values()] if isinstance(x, Tensor) and x.requires_grad]
        values = [y.detach() for y in out]
        if not flowing:
            return values
        if not seeds:
            rng = np.random.default_rng(3)
            seeds.extend(minidl.tensor(rng.standard_normal(y.shape).astype(y.dtype), device="cuda") for y in flowing)
        return values + list(minidl.grad(flowing, leaves, seeds, allow_unused=True))

    return step


def bits(values: list[Any]) -> list[bytes | None]:
    return [None if v is None else v.numpy().tobytes() for v in values]


@pytest.mark.parametrize("row", [r for r in table().values() if r.name not in OPAQUE], ids=lambda r: r.name)
def test_replays_have_the_same_bits(cupy, row: Sample):
    for case in row.cases():
        with parameters_on(case, "cuda:0"):
            minidl.manual_seed(3)
            step = step_of(row, case)
            with capture.recording(capture.Recorder(cupy.asarray)):
                state = minidl.get_rng_state()
                expected = [bits(step()) for _ in range(4)]
            minidl.set_rng_state(state)
            replayed = graphs.capture(step, warmup=2, device="cuda")
            found, refused = [], ""
            try:
                found = [bits(replayed()) for _ in range(4)]
            except graphs.CaptureError as error:
                refused = str(error)
            if refused:
                assert REFUSED.get(row.name, "nothing") in refused
            else:
                assert found == expected and replayed.captured
