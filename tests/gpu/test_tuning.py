"""On a real device: every candidate computes what the plan's kernel does, is timed, and the choice is remembered."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl.kernels import precision
from minidl.kernels.cuda import conv, plan, tuner
from minidl.kernels.geometry import ConvGeometry

pytestmark = pytest.mark.gpu

LAYERS = {
    "C3D conv3b": ConvGeometry.of((4, 256, 8, 28, 28), (256, 256, 3, 3, 3), 1, 1),
    "C3D conv1": ConvGeometry.of((2, 3, 16, 112, 112), (64, 3, 3, 3, 3), 1, 1),
    "DCGAN": ConvGeometry.of((32, 64, 32, 32), (128, 64, 4, 4), 2, 1),
    "small": ConvGeometry.of((4, 8, 14, 14), (16, 8, 3, 3), 1, 1),
    "groups": ConvGeometry.of((8, 64, 28, 28), (64, 16, 3, 3), 1, 1, 1, 4),
}
ARITHMETIC = [*(("float32", name) for name in precision.MATMUL_NAMES), ("float16", "highest"), ("bfloat16", "highest")]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuner, "_mode", None)
    tuner.forget()
    yield
    tuner.forget()
    precision.set_float32_matmul_precision("highest")


def operands(cupy, member, g, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    shapes = {
        "conv": (g.x_shape, g.w_shape),
        "conv_input": (g.y_shape, g.w_shape),
        "conv_weight": (g.x_shape, g.y_shape),
    }
    rng = np.random.default_rng(0)
    return [cupy.asarray(rng.standard_normal(shape, np.float32).astype(dtype)) for shape in shapes[member]]


CASES = [
    (name, dtype, words)
    for name in LAYERS
    for dtype, words in ARITHMETIC
    if name == "C3D conv3b" or (dtype, words) == ("float32", "high")
]


@pytest.mark.parametrize("member", ["conv", "conv_input", "conv_weight"])
@pytest.mark.parametrize(("name", "dtype", "words"), CASES)
def test_all_candidates_agree_and_one_is_chosen(cupy, name, dtype, words, member):
    """No candidate may be dropped. What each took is printed: pytest -s shows it, a failure anyway."""
    g = LAYERS[name]
    given = operands(cupy, member, g, dtype)
    precision.set_float32_matmul_precision(words)
    minidl.set_autotune(False)
    by_model = getattr(conv, member)(*given, geometry=g).astype(np.float32)
    problem = conv.problem(member, g, given[0].dtype, False, False, 0)
    found = list(conv.candidates(problem))
    if len(found) == 1:
        pytest.skip("there is one kernel only")
    rest = (None,) if member != "conv_weight" else ()
    entry = tuner.measure(problem, found, (*given, *rest), getattr(conv, member)(*given, geometry=g))
    expected = {o.name: 1e6 * o.cycles / plan.CLOCK for o in plan.options(member, *problem[1:4], problem.device)}
    print(f"\n{name}, {member}, {dtype}, {words}: the model chooses {found[0].name}, fastest is {entry.chosen}")
    for kernel, us in entry.microseconds.items():
        rate = 2e-6 * g.multiply_adds / us
        print(f"  {kernel:60} {us:9.1f} us {rate:7.1f} TFLOP/s   expected {expected.get(kernel, float('nan')):9.1f} us")
    assert not entry.wrong, "\n".join(f"{kernel}: {reason}" for kernel, reason in entry.wrong.items())
    assert all(us > 0 for us in entry.microseconds.values())

    tuner._remember(problem, 0, entry)
    minidl.set_autotune("remembered")
    y = getattr(conv, member)(*given, geometry=g).astype(np.float32)
    allowed = tuner.TOLERANCE_OF_TYPES.get(dtype) or tuner.TOLERANCE[words]
    assert float(abs(y - by_model).max()) <= allowed * float(abs(by_model).max())
    assert tuner.remembered(problem, 0) == entry
    tuner.forget()  # as another process does
    again = getattr(conv, member)(*given, geometry=g).astype(np.float32)
    assert cupy.asnumpy(again).tobytes() == cupy.asnumpy(y).tobytes()


def test_what_is_new_is_measured_when_it_occurs(cupy):
    g = LAYERS["small"]
    given = operands(cupy, "conv", g, "float32")
    minidl.set_autotune(True)
    conv.conv(*given, geometry=g)
    entry = tuner.remembered(conv.problem("conv", g, np.dtype(np.float32), False, False, 0), 0)
    assert entry is not None and len(entry.microseconds) > 1 and not entry.wrong


def test_times_are_those_of_the_device(cupy):
    """Twice the work takes about twice as long, whatever the host does meanwhile."""
    minidl.set_autotune(False)
    times = []
    for batch in (8, 16):
        g = ConvGeometry.of((batch, 64, 16, 28, 28), (128, 64, 3, 3, 3), 1, 1)
        given = operands(cupy, "conv", g, "float32")
        problem = conv.problem("conv", g, np.dtype(np.float32), False, False, 0)
        own = list(conv.candidates(problem))[:1]
        y = conv.conv(*given, geometry=g)
        times.append(tuner._timed(own, [*given, None], y)[own[0].name])
    assert 1.5 < times[1] / times[0] < 2.5
