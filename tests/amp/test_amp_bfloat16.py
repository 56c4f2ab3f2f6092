"""bfloat16 as a type of tensors: promotion, Python numbers, printing, conversion, protocols, modules."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.core.dtypes import DTYPES, as_dtype
from minidl.core.primitive import Primitive
from minidl.kernels import bfloat16 as kernels
from minidl.kernels import table

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

BF16 = minidl.bfloat16


def narrow(*values: float, requires_grad: bool = False) -> minidl.Tensor:
    return minidl.tensor(list(values), dtype=BF16, requires_grad=requires_grad)


# ---- the type
def test_it_is_that_of_ml_dtypes():
    assert np.dtype(ml_dtypes.bfloat16) == BF16 == as_dtype("bfloat16") == as_dtype(ml_dtypes.bfloat16)


def test_its_name_is_known_before_ml_dtypes_is_imported():
    code = (
        "import sys, minidl\n"
        "assert 'ml_dtypes' not in sys.modules\n"
        "x = minidl.ones(2, dtype='bfloat16')\n"
        "print(x + x, x.dtype == minidl.bfloat16)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "tensor([2., 2.], dtype=bfloat16) True\n"


def test_without_ml_dtypes_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import minidl\n"
        "try: minidl.zeros(2, dtype='bfloat16')\n"
        "except RuntimeError as error: print(error)\n"
        "print((minidl.ones(2) + 1).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install ml_dtypes" in done.stdout and done.stdout.endswith("4.0\n")


def test_other_types_of_its_kind_are_refused():
    pairs = np.zeros(2, [("a", "f4")])
    with pytest.raises(TypeError, match=r"not supported; the supported ones are bool, .*, bfloat16"):
        minidl.as_tensor(pairs)
    with pytest.raises(TypeError, match="not supported"):
        minidl.result_type(pairs)
    with pytest.raises(TypeError, match="only floating-point"):
        minidl.Tensor(pairs).requires_grad_()


# ---- promotion
def test_promotion_is_that_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    dtypes = [*DTYPES, BF16]
    for a, b in product(dtypes, dtypes):
        for left, right in product(((2,), ()), repeat=2):
            ours = minidl.result_type(minidl.zeros(left, dtype=a), minidl.zeros(right, dtype=b))
            theirs = torch.result_type(
                torch.zeros(left, dtype=getattr(torch, a.name)), torch.zeros(right, dtype=getattr(torch, b.name))
            )
            assert f"torch.{ours.name}" == str(theirs), (a, b, left, right)


def test_with_float16_it_has_float32_in_common():
    both = narrow(1.5) + minidl.tensor([2.0], dtype="float16")
    assert both.dtype == np.float32 and both.item() == 3.5
    half = np.dtype("float16")
    assert minidl.promote_types(BF16, half) == minidl.promote_types(half, BF16) == np.float32


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("size", [2, 2**18])  # through the short way, and divided
def test_python_numbers_are_weak(requires_grad, size):
    x = minidl.full((size,), 1.5, dtype=BF16).requires_grad_(requires_grad)
    for y, expected in (
        (x * 2.5, 3.75), (2.5 * x, 3.75), (x + 1, 2.5), (1 - x, -0.5), (x / 3.0, 0.5), (3.0 / x, 2.0), (x**2, 2.25),
        (x**0.5, 1.2265625), (minidl.maximum(x, x), 1.5), (minidl.where(x > 1.0, x, 0.0), 1.5),
        (x.clamp(0.0, 1.0), 1.0),
    ):  # fmt: skip
        assert y.dtype == BF16 and y.requires_grad == requires_grad
        assert float(y[0]) == float(y[-1]) == expected


def test_gradients_have_its_type():
    x = narrow(0.5, 2.0, requires_grad=True)
    ((x * 2.5).exp() / 3.0 + x.sum() * 0.1).sum().backward()
    assert x.grad.dtype == BF16
    np.testing.assert_allclose(x.grad.float().numpy(), 2.5 * np.exp(2.5 * np.array([0.5, 2.0])) / 3 + 0.2, rtol=2.0**-7)


def test_results_are_rounded_once():
    rng = np.random.default_rng(0)
    x, w = (minidl.tensor(rng.standard_normal((40, 40)), dtype=BF16) for _ in range(2))
    exact = x.numpy().astype("f8") @ w.numpy().astype("f8")
    error = np.abs((x @ w).numpy().astype("f8") - exact)
    assert (error <= 2.0**-8 * np.abs(exact) + 1e-5).all()
    assert float(minidl.full((5000,), 1.0, dtype=BF16).sum()) == 4992  # 5000, rounded; a bfloat16 sum stays at 256


# ---- tensors
def test_creation_and_conversion():
    for x in (
        minidl.zeros(2, dtype=BF16), minidl.ones(2, dtype="bfloat16"), minidl.full((2,), 0.5, dtype=BF16),
        minidl.empty(2, dtype=BF16), minidl.arange(3, dtype=BF16), minidl.linspace(0, 1, 3, dtype=BF16),
        minidl.eye(2, dtype=BF16), minidl.rand(2, dtype=BF16), minidl.randn(2, dtype=BF16),
        minidl.randint(5, (2,), dtype=BF16), minidl.zeros_like(narrow(1.0)), minidl.bernoulli(narrow(0.5)),
        minidl.as_tensor(np.ones(2, BF16)), minidl.from_numpy(np.ones(2, BF16)), minidl.ones(2).to(BF16),
        minidl.ones(2).to("bfloat16"), minidl.ones(2).bfloat16(), minidl.ones(2).type_as(narrow(1.0)),
    ):  # fmt: skip
        assert x.dtype == BF16 and x.is_floating_point() and x.itemsize == 2
    x = narrow(1.0, -2.5)
    for y, name in ((x.float(), "float32"), (x.half(), "float16"), (x.double(), "float64"), (x.int(), "int32")):
        assert y.dtype.name == name
    assert x.int().tolist() == [1, -2] and x.tolist() == [1.0, -2.5] and type(x.tolist()[0]) is float
    assert type(x[0].item()) is float and x.numpy().dtype == BF16 and np.asarray(x).dtype == BF16
    assert minidl.allclose(x, x) and minidl.equal(x, x)


def test_printing():
    assert repr(narrow(1.0, 0.1)) == "tensor([1.    , 0.1001], dtype=bfloat16)"
    assert repr(narrow(2.0, requires_grad=True)) == "tensor([2.], dtype=bfloat16, requires_grad=True)"
    assert f"{narrow(0.5):.2f}" == "0.50"


def test_numpy_cannot_export_it_through_dlpack():
    with pytest.raises(BufferError, match=r"\.float\(\)"):
        narrow(1.0).__dlpack__()


def test_anomalies_are_found():
    x = narrow(0.0, requires_grad=True)
    with minidl.detect_anomaly(), np.errstate(all="ignore"), pytest.raises(ArithmeticError, match="not finite"):
        (x.sqrt() * 1.0).sum().backward()


def test_checkpoint():
    x = narrow(0.5, -1.0, requires_grad=True)
    y = minidl.checkpoint(lambda v: (v * 1.5).exp(), x)
    y.sum().backward()
    (expected,) = minidl.grad((x * 1.5).exp().sum(), [x])
    assert x.grad.dtype == BF16 and minidl.equal(x.grad, expected)


# ---- modules
def test_modules():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).bfloat16()
    tensors = [*net.parameters(), *net.buffers()]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {BF16}
    net(minidl.randn(5, 1, 4, 4, dtype=BF16)).sum().backward()
    assert {p.grad.dtype for p in net.parameters()} == {BF16}
    other = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).to(BF16)
    other.load_state_dict(net.state_dict())
    assert minidl.equal(other[4].weight, net[4].weight)
    assert net.float()[4].weight.dtype == np.float32
    assert nn.Linear(2, 2, dtype=BF16).weight.dtype == BF16


def test_gradients_are_clipped():
    p = nn.Parameter(np.zeros(2, BF16))
    for clip in (lambda: nn.utils.clip_grad_norm_([p], 1.0), lambda: nn.utils.clip_grad_value_([p], 0.75)):
        p.grad = narrow(3.0, 4.0)
        clip()
        assert p.grad.dtype == BF16
    assert p.grad.tolist() == [0.75, 0.75]


# ---- who computes
def test_every_row_named_is_one():
    for names in (kernels.MOVING, kernels.LOOPS, kernels.ON_DEVICES):
        assert names <= set(Primitive.names) | set(table.TABLE)


def test_rows_that_take_it_give_it():
    """What runs on bfloat16 as it is must not give float32, as NumPy does beside a Python float."""
    x = np.array([1.5, 0.25, -2.0], BF16)
    for name in kernels.LOOPS:
        primitive = Primitive.names[name]
        for args in ((x, x), (x, 2.0), (2.0, x), (x, 3)) if primitive.inputs == 2 else ((x,),):
            y = primitive(*args)
            assert y.dtype in (BF16, np.bool_), (name, args)


def test_selection_by_bits():
    from minidl.kernels.reference.elementwise import choose

    mask = np.array([True, False])
    x, y = np.array([1.5, 2.5], BF16), np.array([-1.0, np.nan], BF16)
    np.testing.assert_array_equal(choose(mask, x, y).astype("f4"), [1.5, np.nan])
    np.testing.assert_array_equal(choose(mask, x, BF16.type(0.5)).astype("f4"), [1.5, 0.5])
    np.testing.assert_array_equal(choose(mask, BF16.type(3), BF16.type(0.5)).astype("f4"), [3, 0.5])


def test_summaries():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    wide, narrow = minidl.summary(net, (2, 1, 8, 8)), minidl.summary(net.bfloat16(), (2, 1, 8, 8))
    assert narrow.multiply_adds == wide.multiply_adds
    assert 2 * narrow.parameter_bytes == wide.parameter_bytes
    assert 2 * narrow.activation_bytes == wide.activation_bytes
    with minidl.autocast("cpu"):
        assert minidl.summary(net.float(), (2, 1, 8, 8)).multiply_adds == wide.multiply_adds
