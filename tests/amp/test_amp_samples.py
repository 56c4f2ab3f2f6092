"""Every primitive, function and layer on bfloat16 and float16: values, gradients, and gradients that can be
differentiated, beside those of the same numbers in float64."""

from __future__ import annotations

import numpy as np
import pytest
from narrow_samples import computed

import minidl
from minidl.checking.sample import Case, Sample
from minidl.checking.samples import table
from minidl.kernels.arrays import is_floating

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

# kernels that run on bare arrays only; what draws at random; what brings a type or float64 arrays of its own
LEFT_OUT = {row.name for row in table().values() if row.gradient == "none"} | {"astype", "functional.batch_norm"}
LEFT_OUT |= {name for name in table() if "dropout" in name.lower()}
ROWS = [row for row in table().values() if row.name not in LEFT_OUT]


def fixed_in_float64(case: Case) -> bool:
    """Whether the case brings arrays of float64 besides its inputs: then results are float64, as promotion has it."""
    return any(getattr(getattr(v, "dtype", None), "kind", "") == "f" for v in case.params.values())


def check(row: Sample, case: Case, dtype: str, graph: bool) -> None:
    found, expected = computed(row, case, dtype, graph=graph), computed(row, case, "float64")
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert a.shape == b.shape
        if not is_floating(b.dtype):
            assert a.dtype == b.dtype
            continue
        assert a.dtype == dtype
        x, y = (v.detach().numpy().astype("float64") for v in (a, b))
        finite = np.isfinite(y)
        np.testing.assert_array_equal(np.isfinite(x), finite)
        # 8 or 11 bits in every step of a composed function; sums of many terms lose digits of the largest
        scale = max(1.0, np.abs(y[finite]).max(initial=0.0))
        allowed = 0.04 if dtype == "bfloat16" else 0.01
        np.testing.assert_allclose(x[finite] / scale, y[finite] / scale, rtol=0, atol=allowed)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bfloat16(row: Sample):
    for case in row.cases():
        if not fixed_in_float64(case):
            for graph in (False, True):
                check(row, case, "bfloat16", graph)


def composed(row: Sample) -> tuple:
    """Functions and layers consist of primitives."""
    return () if row.kind == "primitive" else (pytest.mark.slow,)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=composed(row)) for row in ROWS])
def test_float16(row: Sample):
    for case in row.cases():
        if not fixed_in_float64(case):
            check(row, case, "float16", False)


def test_cases_are_left_out_only_for_their_float64():
    assert sum(fixed_in_float64(case) for row in ROWS for case in row.cases()) < 60


def test_the_second_derivative():
    x = minidl.tensor([0.5, 1.5], dtype=minidl.bfloat16, requires_grad=True)
    (g,) = minidl.grad((x * x * x).sum(), [x], create_graph=True)
    (second,) = minidl.grad(g.sum(), [x])
    assert g.dtype == second.dtype == minidl.bfloat16
    assert second.tolist() == [3.0, 9.0]
