"""Sample metrics against loops and closed forms: Parzen windows, neighbours, sharpness, the Gaussian baseline."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl.data import digits
from minidl.metrics import (
    PARZEN_SIGMAS,
    arguments,
    gaussian_samples,
    gradient_energy,
    laplacian_energy,
    nearest_neighbour_distance,
    parzen_log_likelihood,
    relative_sharpness,
)

numbers = st.floats(-3, 3, width=32)


@st.composite
def two_sets(draw):
    """Points (N, D) and (M, D)."""
    n, m, d = draw(st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5)))
    return draw(hnp.arrays(np.float64, (n, d), elements=numbers)), draw(
        hnp.arrays(np.float64, (m, d), elements=numbers)
    )


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def parzen_loop(samples, points, sigma):
    """Log-densities, one point and one kernel at a time."""
    logs = []
    for x in points.tolist():
        size = len(x)
        kernels = [
            math.exp(-squared(x, s) / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** (size / 2) for s in samples.tolist()
        ]
        logs.append(math.log(sum(kernels) / len(kernels)))
    return logs


# ---- Parzen windows


@given(two_sets(), st.floats(0.5, 3))
def test_parzen_is_that_of_a_loop(sets, sigma):
    samples, points = sets
    logs = parzen_loop(samples, points, sigma)
    found = parzen_log_likelihood(samples, points, sigma)
    assert found.mean == pytest.approx(sum(logs) / len(logs), rel=1e-9, abs=1e-9)
    assert found.sigma == sigma
    if len(logs) > 1:
        mean = sum(logs) / len(logs)
        spread = math.sqrt(sum((log - mean) ** 2 for log in logs) / (len(logs) - 1))
        assert found.error == pytest.approx(spread / math.sqrt(len(logs)), rel=1e-6, abs=1e-7)
    else:
        assert math.isnan(found.error)


def test_parzen_survives_where_densities_underflow():
    """One kernel, 784 numbers, far away: exp(-78400) is 0 in floating point, its logarithm is not."""
    found = parzen_log_likelihood(np.zeros((1, 784)), np.ones((1, 784)), 0.1)
    assert found.mean == pytest.approx(-784 * 50 - 392 * math.log(2 * math.pi * 0.01))


def test_parzen_tends_to_the_density_that_the_samples_come_from():
    """Samples of N(0, I) and kernels of width s estimate N(0, (1 + s²) I), whose mean log-density has a closed form."""
    rng = np.random.default_rng(0)
    sigma, size = 0.5, 2
    found = parzen_log_likelihood(rng.standard_normal((20000, size)), rng.standard_normal((4000, size)), sigma)
    variance = 1 + sigma**2
    exact = -size / 2 * math.log(2 * math.pi * variance) - size / (2 * variance)
    assert abs(found.mean - exact) < 4 * found.error
    assert found.error == pytest.approx(math.sqrt(size / 2) / variance / math.sqrt(4000), rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_validation_images_choose_the_width_that_makes_them_likeliest(seed):
    rng = np.random.default_rng(seed)
    samples, validation, points = (rng.uniform(size=(n, 2, 3)) for n in (20, 30, 10))
    found = parzen_log_likelihood(samples, points, validation=validation)
    flat = lambda x: x.reshape(len(x), -1)
    means = [np.mean(parzen_loop(flat(samples), flat(validation), sigma)) for sigma in PARZEN_SIGMAS]
    assert found.sigma == PARZEN_SIGMAS[int(np.argmax(means))]
    assert found.mean == pytest.approx(np.mean(parzen_loop(flat(samples), flat(points), found.sigma)))
    assert str(found) == f"{found.mean:.1f} ± {found.error:.1f} nats (sigma {found.sigma:.3g})"


def test_widths_are_those_of_the_paper():
    assert len(PARZEN_SIGMAS) == 10 and PARZEN_SIGMAS[0] == 0.1 and PARZEN_SIGMAS[-1] == 1
    np.testing.assert_allclose(PARZEN_SIGMAS[1:] / PARZEN_SIGMAS[:-1], 10 ** (1 / 9))


def test_a_width_chosen_on_the_samples_themselves_collapses():
    """The trap that the docstring warns of, on real digits: the narrowest width wins, and test images are unlikely."""
    train, test = digits("train").arrays[0], digits("test").arrays[0]
    fair = parzen_log_likelihood(train, test[::2], validation=test[1::2])
    trap = parzen_log_likelihood(train, test[::2], validation=train[::4])
    assert trap.sigma == PARZEN_SIGMAS[0] < fair.sigma
    assert trap.mean < fair.mean - 10


def test_results_do_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    samples, points = rng.uniform(size=(13, 4)), rng.uniform(size=(11, 4))
    whole = parzen_log_likelihood(samples, points, 0.3), nearest_neighbour_distance(samples, points)
    for chunk in (1, 13, 40):  # less than a row, a row, some rows
        monkeypatch.setattr(arguments, "CHUNK", chunk)
        assert max(block.size for _, block in arguments.squared_distances(points, samples)) <= max(chunk, 13)
        assert parzen_log_likelihood(samples, points, 0.3) == whole[0]
        np.testing.assert_array_equal(nearest_neighbour_distance(samples, points), whole[1])


# ---- neighbours


@given(two_sets())
def test_nearest_neighbours_are_those_of_a_loop(sets):
    samples, points = sets
    nearest = [math.sqrt(min(squared(s, x) for x in points.tolist())) for s in samples.tolist()]
    np.testing.assert_allclose(nearest_neighbour_distance(samples, points), nearest, rtol=1e-12)


def test_copies_are_at_distance_zero_exactly():
    images = digits("train").arrays[0]
    found = nearest_neighbour_distance(np.concatenate([images[5:8], images[:1] + 0.01]), images)
    assert found[:3].tolist() == [0, 0, 0]
    assert found[3] == pytest.approx(0.08, rel=1e-4)  # the root of 64 squares of 0.01


# ---- sharpness


images_of_any_size = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(3, 6), st.integers(3, 6)), elements=numbers
)


@given(images_of_any_size)
def test_energies_are_those_of_a_loop(images):
    n, _, height, width = images.shape
    down, across, second = np.zeros(n), np.zeros(n), np.zeros(n)
    for i, c, y, x in np.ndindex(images.shape):
        here = images[i, c]
        if y + 1 < height:
            down[i] += (here[y + 1, x] - here[y, x]) ** 2
        if x + 1 < width:
            across[i] += (here[y, x + 1] - here[y, x]) ** 2
        if 0 < y < height - 1 and 0 < x < width - 1:
            around = here[y - 1, x] + here[y + 1, x] + here[y, x - 1] + here[y, x + 1]
            second[i] += (around - 4 * here[y, x]) ** 2
    np.testing.assert_allclose(gradient_energy(images), down + across, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient_energy(images, axes=(-1,)), across, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(laplacian_energy(images), second, rtol=1e-12, atol=1e-12)


def test_blur_is_below_one_and_artefacts_stand_out_in_the_laplacian():
    images = digits("test").arrays[0]
    blurred = (images + np.roll(images, 1, -1) + np.roll(images, 1, -2) + np.roll(images, (1, 1), (-1, -2))) / 4
    assert relative_sharpness(images, images) == 1
    assert relative_sharpness(images * 2, images) == pytest.approx(4)
    assert relative_sharpness(blurred, images) < 0.7
    chequered = images + 0.2 * (np.indices((8, 8)).sum(0) % 2)
    gradient, laplacian = relative_sharpness(chequered, images), relative_sharpness(chequered, images, laplacian_energy)
    assert 1 < gradient < laplacian


# ---- the Gaussian baseline


def test_gaussian_samples_have_the_points_mean_and_covariance():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((50, 3)) @ np.array([[2.0, 1, 0], [0, 1, 0.5], [0, 0, 0.1]]) + [1, 2, 3]
    drawn = gaussian_samples(points.reshape(50, 1, 3), 200_000, rng)
    assert drawn.shape == (200_000, 1, 3) and drawn.dtype == np.float64
    np.testing.assert_allclose(drawn[:, 0].mean(0), points.mean(0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn[:, 0].T), np.cov(points.T), rtol=0.03, atol=0.01)


def test_gaussian_samples_of_a_singular_covariance_stay_in_its_subspace():
    points = digits("train").arrays[0]
    drawn = gaussian_samples(points, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 1, 8, 8)
    constant = points.std(0) == 0
    assert constant.any()
    np.testing.assert_allclose(
        drawn[:, constant], np.broadcast_to(points[0, constant], (500, constant.sum())), atol=1e-9
    )
    again = gaussian_samples(points, 500, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)
    assert gaussian_samples(points, 0, np.random.default_rng(0)).shape == (0, 1, 8, 8)
    # fewer points than pixels: three points span a plane
    few = gaussian_samples(points[:3], 20, np.random.default_rng(0)).reshape(20, 64)
    assert np.linalg.matrix_rank(few - few.mean(0), tol=1e-9) == 2


# ---- refusals

two = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: parzen_log_likelihood(two, two), ValueError, "give either sigma, or validation images"),
        (lambda: parzen_log_likelihood(two, two, 1.0, two), ValueError, "give either sigma, or validation images"),
        (lambda: parzen_log_likelihood(two, two, 0.0), ValueError, "sigma is 0.0; it must be positive"),
        (lambda: parzen_log_likelihood(two, two[:, :2], 1.0), ValueError, "theirs are: samples 3, points 2"),
        (lambda: parzen_log_likelihood(two, two, validation=two[:, :1]), ValueError, "samples 3, validation 1"),
        (lambda: parzen_log_likelihood(two[:0], two, 1.0), ValueError, "samples has shape (0, 3)"),
        (lambda: parzen_log_likelihood(two, two[0], 1.0), ValueError, "points has shape (3,); it must be (N, …)"),
        (lambda: nearest_neighbour_distance(two, two * np.nan), ValueError, "points holds NaN or infinity"),
        (lambda: nearest_neighbour_distance(two, two * 1j), TypeError, "points holds complex128"),
        (lambda: nearest_neighbour_distance(two, np.zeros((2, 4))), ValueError, "samples 3, points 4"),
        (lambda: gradient_energy(two), ValueError, "images has shape (2, 3); it must be (N, …, H, W)"),
        (lambda: laplacian_energy(np.zeros((1, 2, 5))), ValueError, "2 x 5 pixels; the Laplacian needs at least 3 x 3"),
        (lambda: relative_sharpness(two[None], two[None]), ValueError, "reference has no energy"),
        (lambda: gaussian_samples(two[:1], 1, np.random.default_rng()), ValueError, "needs at least two"),
        (lambda: gaussian_samples(two, -1, np.random.default_rng()), ValueError, "count is -1"),
    ],
)
def test_refusals_name_the_argument_and_what_would_fit(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
