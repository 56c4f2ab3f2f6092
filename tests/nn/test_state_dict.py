"""state_dict and load_state_dict."""

import numpy as np
import pytest

import minidl
from minidl import nn


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_keys_and_shared_memory():
    net = small()
    state = net.state_dict()
    assert {k: v.shape for k, v in state.items()} == {
        "0.weight": (2, 3), "0.bias": (2,), "1.weight": (2,), "1.bias": (2,), "1.running_mean": (2,),
        "1.running_var": (2,), "1.num_batches_tracked": (),
    }  # fmt: skip
    assert all(type(v) is minidl.Tensor and not v.requires_grad for v in state.values())
    assert state["0.weight"].data is net[0].weight.data
    assert next(iter(net.state_dict(prefix="net."))) == "net.0.weight"
    assert net.state_dict(keep_vars=True)["0.weight"] is net[0].weight


def test_round_trip():
    net, other = small(), small()
    net(minidl.randn(8, 3))
    state = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    where = other[0].weight.data
    report = other.load_state_dict(state)
    assert report == ([], []) and repr(report) == "<All keys matched successfully>"
    assert other[0].weight.data is where  # in place: optimizers and views stay valid
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])
        assert value.dtype == state[key].dtype
    assert int(other[1].num_batches_tracked) == 1
    other.load_state_dict(net.state_dict())


def test_types_are_converted_to_the_parameters():
    layer = nn.Linear(1, 2)
    layer.load_state_dict({"weight": np.array([[1], [2]]), "bias": [0.5, 1.5]})
    assert layer.weight.dtype == layer.bias.dtype == "float32"
    np.testing.assert_array_equal(layer.weight.numpy(), [[1], [2]])
    np.testing.assert_array_equal(layer.bias.numpy(), [0.5, 1.5])
    with pytest.raises(TypeError, match=r"state_dict\['bias'\] holds <U"):
        layer.load_state_dict({"weight": np.zeros((2, 1)), "bias": ["a", "b"]})


@pytest.mark.parametrize("strict", [True, False])
def test_one_error_lists_everything_and_nothing_changes(strict):
    net = small()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    bad = {k: v + 1 for k, v in before.items()}
    del bad["0.bias"], bad["1.running_var"]
    bad["0.weight"] = np.zeros((3, 2))
    bad["2.weight"] = np.zeros((5, 4))
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(bad, strict=strict)
    lines = [
        "this state does not fit Sequential:",
        "  2 missing: 0.bias (2,); 1.running_var (2,)",
        "  1 unexpected: 2.weight (5, 4)",
        "  1 of the wrong shape: 0.weight: given (3, 2), here (2, 3)",
    ]
    assert str(caught.value).split("\n") == (lines if strict else [lines[0], lines[-1]])
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_not_strict_reports():
    net = small()
    report = net.load_state_dict({"0.bias": np.array([7.0, 8.0]), "extra": np.zeros(1)}, strict=False)
    assert report.unexpected_keys == ["extra"] and "0.weight" in report.missing_keys
    assert "0.bias" not in report.missing_keys and "unexpected_keys=['extra']" in repr(report)
    np.testing.assert_array_equal(net[0].bias.numpy(), [7, 8])


def test_a_graph_that_used_the_old_values_refuses_to_run_backward():
    layer = nn.Linear(2, 2)
    x = minidl.randn(3, 2, requires_grad=True)
    loss = layer(x).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match=r"argument w .* was changed in place"):
        loss.backward()
    layer(x).sum().backward()


def test_buffers_that_are_not_persistent_stay_out():
    module = nn.Module()
    module.register_buffer("table", minidl.ones(3), persistent=False)
    assert module.state_dict() == {}
    module.load_state_dict({})
    with pytest.raises(RuntimeError, match=r"1 unexpected: table \(3,\)"):
        module.load_state_dict({"table": np.ones(3)})


def test_states_made_by_torch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    theirs(torch.randn(8, 3))
    net = small()
    net.load_state_dict(theirs.state_dict())  # NumPy can read them as they are
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(net.eval()(minidl.tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-6)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in net.state_dict().items()})
