"""Datasets, splits, the digits, and the loader's order and position."""

import sys

import numpy as np
import pytest

from minidl.data import ArrayDataset, DataLoader, MissingExtra, Subset, digits, random_split


def numbers(count):
    return ArrayDataset(np.arange(count), np.arange(count) * 10)


class OneByOne:
    """A dataset without `batch`."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return np.full((2,), index), index


def test_array_dataset_items_and_batches():
    data = numbers(4)
    assert len(data) == 4
    assert data[2] == (2, 20)
    np.testing.assert_array_equal(data.batch(np.array([3, 0]))[1], [30, 0])


def test_array_dataset_refuses_nothing_and_different_lengths():
    with pytest.raises(ValueError, match="at least one"):
        ArrayDataset()
    with pytest.raises(ValueError, match="3, 4"):
        ArrayDataset(np.zeros(3), np.zeros(4))


def test_random_split_divides_without_loss_and_by_its_seed():
    data = numbers(20)
    a, b = random_split(data, [15, 5], seed=3)
    assert sorted([*a.indices, *b.indices]) == list(range(20))
    assert list(b.indices) == sorted(b.indices)
    assert list(random_split(data, [15, 5], seed=3)[1].indices) == list(b.indices)
    assert list(random_split(data, [15, 5], seed=4)[1].indices) != list(b.indices)
    assert b[0] == data[b.indices[0]]


@pytest.mark.parametrize("lengths", [[3, 3], [21, -1], []])
def test_random_split_refuses_lengths_that_do_not_add_up(lengths):
    with pytest.raises(ValueError, match="add up to 20"):
        random_split(numbers(20), lengths)


def test_digits_are_the_real_ones_in_the_fixed_split():
    from sklearn.datasets import load_digits

    raw = load_digits()
    train, test = digits("train"), digits("test")
    assert (len(train), len(test), len(digits("all"))) == (1297, 500, 1797)
    images, labels = test.arrays
    assert images.shape == (500, 1, 8, 8) and images.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_array_equal(images[0, 0] * 16, raw.images[1297])
    np.testing.assert_array_equal(labels, raw.target[1297:])
    assert images.min() == 0 and images.max() == 1
    with pytest.raises(ValueError, match="'train', 'test' or 'all'"):
        digits("validation")


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # import sklearn now raises ModuleNotFoundError
    with pytest.raises(MissingExtra, match=r"scikit-learn.*pip install 'minidl\[train\]'"):
        digits()


def order(loader):
    return [batch[0].tolist() for batch in loader]


def test_loader_batches_in_order_and_drops_the_last():
    assert order(DataLoader(numbers(5), 2)) == [[0, 1], [2, 3], [4]]
    assert order(DataLoader(numbers(5), 2, drop_last=True)) == [[0, 1], [2, 3]]
    assert len(DataLoader(numbers(5), 2)) == 3
    assert len(DataLoader(numbers(5), 2, drop_last=True)) == 2


def test_loader_stacks_items_of_plain_datasets_and_subsets():
    first, second = next(iter(DataLoader(Subset(OneByOne(), [4, 2]), 2)))
    np.testing.assert_array_equal(first, [[4, 4], [2, 2]])
    np.testing.assert_array_equal(second, [4, 2])


def test_loader_shuffles_anew_in_each_epoch_by_its_own_seed():
    np.random.seed(0)  # noqa: NPY002 (the global stream must not matter)
    loader = DataLoader(numbers(50), 50, shuffle=True, seed=1)
    first, second = order(loader), order(loader)
    assert sorted(first[0]) == list(range(50))
    assert first != second
    np.random.seed(9)  # noqa: NPY002
    again = DataLoader(numbers(50), 50, shuffle=True, seed=1)
    assert [order(again), order(again)] == [first, second]
    assert order(DataLoader(numbers(50), 50, shuffle=True, seed=2)) != first


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5])
def test_loader_goes_on_exactly_where_it_was(taken):
    """Stopped after any number of batches (an epoch has 4), the rest comes as if nothing had happened."""

    def stream(loader, epochs):
        return [batch for _ in range(epochs) for batch in order(loader)]

    expected = stream(DataLoader(numbers(8), 2, shuffle=True, seed=7), 3)
    loader = DataLoader(numbers(8), 2, shuffle=True, seed=7)
    seen = []
    while len(seen) < taken:
        for batch in loader:
            seen.append(batch[0].tolist())
            if len(seen) == taken:
                break
    resumed = DataLoader(numbers(8), 2, shuffle=True, seed=7)
    resumed.load_state_dict(loader.state_dict())
    rest = stream(resumed, 3)
    assert seen + rest[: 12 - taken] == expected


def test_loader_left_with_break_begins_the_next_epoch():
    loader = DataLoader(numbers(8), 2, shuffle=True, seed=7)
    reference = DataLoader(numbers(8), 2, shuffle=True, seed=7)
    for _ in loader:
        break
    order(reference)
    assert order(loader) == order(reference)


def test_loader_refuses_a_position_taken_with_other_settings():
    state = DataLoader(numbers(8), 2).state_dict()
    with pytest.raises(ValueError, match="batch_size = 2; this loader has 4"):
        DataLoader(numbers(8), 4).load_state_dict(state)
    with pytest.raises(ValueError, match="items = 8"):
        DataLoader(numbers(9), 2).load_state_dict(state)


def test_loader_refuses_empty_batches():
    with pytest.raises(ValueError, match="batch_size is 0"):
        DataLoader(numbers(8), 0)
