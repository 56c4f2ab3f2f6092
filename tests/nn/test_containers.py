"""Sequential, ModuleList, ModuleDict."""

import pytest

import minidl
from minidl import nn


def row(n):
    return [nn.Linear(i + 1, i + 2) for i in range(n)]


def test_sequential_is_indexed_and_sliced():
    parts = row(4)
    net = nn.Sequential(*parts)
    assert len(net) == 4 and list(net) == parts and net[0] is parts[0] and net[-1] is parts[3]
    part = net[1:3]
    assert isinstance(part, nn.Sequential) and list(part) == parts[1:3]
    assert list(part.state_dict()) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert net(minidl.ones(7, 1)).shape == (7, 5) and part(minidl.ones(7, 2)).shape == (7, 4)
    with pytest.raises(IndexError, match="index 4 is out of range for a Sequential of 4 modules"):
        net[4]
    with pytest.raises(TypeError, match="whole numbers and slices, not 'a'"):
        net["a"]


def test_sequential_with_names():
    net = nn.Sequential({"hidden": nn.Linear(2, 3), "act": nn.ReLU(), "out": nn.Linear(3, 1)})
    assert list(net.state_dict()) == ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]
    assert net.hidden is net[0] and list(net[::2].state_dict()) == list(net.state_dict())
    net[1] = nn.Tanh()
    assert isinstance(net.act, nn.Tanh)


@pytest.mark.parametrize("kind", [lambda parts: nn.Sequential(*parts), nn.ModuleList])
def test_rows_change_like_lists(kind):
    parts = row(5)
    net = kind(parts[:2])
    assert net.append(parts[2]) is net and net.extend(parts[3:4]) is net
    net.insert(1, parts[4])
    wanted = parts[:1] + parts[4:] + parts[1:4]
    assert list(net) == wanted and [n for n, _ in net.named_children()] == ["0", "1", "2", "3", "4"]
    del net[1]
    del net[-2:]
    assert list(net) == parts[:2] and list(net.state_dict())[-1] == "1.bias"
    net[-1] = parts[4]
    assert net[1] is parts[4]
    with pytest.raises(TypeError, match="must be a Module or None, not the class ReLU"):
        net.append(nn.ReLU)
    with pytest.raises(IndexError):
        del net[5]


def test_module_list():
    parts = row(3)
    net = nn.ModuleList(iter(parts))
    assert isinstance(net[1:], nn.ModuleList) and next(iter(net[1:].state_dict())) == "0.weight"
    assert len(list(net.parameters())) == 6
    with pytest.raises(NotImplementedError, match="ModuleList defines no forward"):
        net(1)


def test_module_dict():
    net = nn.ModuleDict({"a": nn.Linear(1, 2)})
    net["b"] = nn.ReLU()
    net.update([("c", nn.Linear(2, 1))])
    assert list(net) == list(net.keys()) == ["a", "b", "c"] and "a" in net and "z" not in net and len(net) == 3
    assert list(net.state_dict()) == ["a.weight", "a.bias", "c.weight", "c.bias"]
    assert dict(net.items())["a"] is net["a"] is next(iter(net.values()))
    gone = net.pop("a")
    assert isinstance(gone, nn.Linear) and "a" not in net
    del net["b"]
    net.clear()
    assert len(net) == 0
    with pytest.raises(KeyError, match="has an attribute 'keys' already"):
        net["keys"] = nn.ReLU()


def test_appending_replaces_nothing_where_names_have_gaps():
    first, second, last = nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()
    net = nn.Sequential({"0": first, "2": second}).append(last)
    assert list(net) == [first, second, last] and list(net[1:].append(first)) == [second, last, first]
