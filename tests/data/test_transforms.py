"""Transforms of images and clips."""

import pickle

import numpy as np
import pytest

from minidl.data import (
    ArrayDataset,
    CenterCrop,
    Compose,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    ToFloat,
    Transformed,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(*shape):
    return rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_to_float_and_normalize():
    x = np.array([[[0, 255]], [[51, 102]]], np.uint8)
    y = ToFloat()(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [[[0, 1]], [[0.2, 0.4]]], rtol=1e-6)
    z = Normalize([0.5, 0.2], [0.5, 0.1])(y)
    np.testing.assert_allclose(z, [[[-1, 1]], [[0, 2]]], atol=1e-6)
    assert z.dtype == np.float32
    np.testing.assert_allclose(Normalize(0.5, 2)(y), (y - 0.5) / 2, rtol=1e-6)
    clip = ToFloat()(picture(3, 4, 5, 6))
    np.testing.assert_allclose(Normalize([0, 1, 2], [1, 2, 4])(clip)[2], (clip[2] - 2) / 4, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 9, 7), (2, 5, 9, 7)])
def test_crops_and_flips_cut_the_same_out_of_all_channels_and_frames(shape):
    """Every pixel knows its place: what comes out must be one window, the same in each plane."""
    places = np.broadcast_to(np.arange(63, dtype=np.uint8).reshape(9, 7), shape)
    corners = set()
    for seed in range(60):
        window = RandomCrop((4, 3))(places, rng(seed))
        assert window.shape == (*shape[:-2], 4, 3)
        top, left = divmod(int(window.reshape(-1)[0]), 7)
        np.testing.assert_array_equal(window, places[..., top : top + 4, left : left + 3])
        corners.add((top, left))
    assert {top for top, _ in corners} == set(range(6)) and {left for _, left in corners} == set(range(5))
    flipped = [RandomHorizontalFlip()(places, rng(seed)) for seed in range(40)]
    count = sum(np.array_equal(x, places[..., ::-1]) for x in flipped)
    assert 8 < count < 32 and count + sum(np.array_equal(x, places) for x in flipped) == 40
    np.testing.assert_array_equal(CenterCrop((4, 3))(places), places[..., 2:6, 2:5])


def test_random_crop_with_padding():
    x = np.ones((1, 4, 4), np.float32)
    sums = {float(RandomCrop(4, padding=2)(x, rng(seed)).sum()) for seed in range(80)}
    assert sums == {4.0, 6.0, 8.0, 9.0, 12.0, 16.0}
    assert RandomCrop(8, padding=2)(x, rng()).shape == (1, 8, 8)


def test_resize_is_pillows_for_each_plane():
    from PIL import Image

    x = picture(3, 20, 13)
    expected = np.asarray(Image.fromarray(x.transpose(1, 2, 0)).resize((7, 10), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Resize((10, 7))(x), expected.transpose(2, 0, 1))
    clip = picture(3, 4, 20, 13)
    small = Resize((10, 7))(clip)
    assert small.shape == (3, 4, 10, 7) and small.dtype == np.uint8
    np.testing.assert_array_equal(small[:, 2], Resize((10, 7))(clip[:, 2]))
    floats = Resize((10, 7))(clip.astype(np.float32))
    assert floats.dtype == np.float32 and np.abs(floats - small).max() <= 1  # bytes are rounded after each axis
    half = Resize((2, 2), "box")(np.arange(16, dtype=np.float32).reshape(1, 4, 4))
    np.testing.assert_allclose(half, [[[2.5, 4.5], [10.5, 12.5]]])


def test_resize_of_the_shorter_side_keeps_proportions():
    assert Resize(10)(picture(1, 20, 30)).shape == (1, 10, 15)
    assert Resize(10)(picture(1, 2, 30, 20)).shape == (1, 2, 15, 10)
    same = picture(1, 5, 6)
    assert Resize((5, 6))(same) is same


def test_compose_and_transformed():
    transform = Compose(ToFloat(), RandomCrop(3), RandomHorizontalFlip(), Normalize(0.5, 0.5))
    data = Transformed(ArrayDataset(picture(5, 3, 6, 6), np.arange(5)), transform)
    x, label = data.sample(2, rng(8))
    np.testing.assert_array_equal(x, transform(data.dataset[2][0], rng(8)))
    assert x.shape == (3, 3, 3) and label == 2 and len(data) == 5
    np.testing.assert_array_equal(data[-1][0], data[4][0])  # an item by itself is always the same
    with pytest.raises(IndexError):
        data[5]
    assert repr(pickle.loads(pickle.dumps(transform))) == repr(transform)
    assert "RandomCrop((3, 3), padding=0)" in repr(transform)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(9)(picture(3, 8, 8), rng()), r"RandomCrop\(\(9, 9\).*does not fit.*\(8, 8\)"),
        (lambda: CenterCrop((2, 9))(picture(3, 8, 8)), "does not fit"),
        (lambda: RandomCrop(3)(picture(3, 8, 8)), "is random: call it with a Generator"),
        (lambda: RandomHorizontalFlip()(picture(3, 8, 8)), "is random"),
        (lambda: RandomHorizontalFlip(1.5), "p is 1.5"),
        (lambda: RandomCrop((3, 0)), r"size is \(3, 0\)"),
        (lambda: RandomCrop(3, padding=-1), "padding is -1"),
        (lambda: Normalize(0.5, 0), "std is 0"),
        (lambda: Normalize([0, 0], 1)(ToFloat()(picture(3, 2, 2))), "mean has 2 values.*3 channels"),
        (lambda: Normalize(0, 1)(picture(3, 2, 2)), "put ToFloat"),
        (lambda: ToFloat()(np.zeros(3, np.int64)), "which value is white"),
        (lambda: Resize((2, 2))(np.zeros((1, 4, 4))), "not float64"),
        (lambda: Resize((2, 2), "best"), "method is 'best'"),
        (lambda: Resize((2, 2, 2)), "must be"),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
