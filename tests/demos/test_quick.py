"""Every demo, scaled down, with one seed: it runs to its end, and shows most of what it will show."""

import math

import pytest
from demo_runs import RUNS

from minidl.demos import DEMOS
from minidl.demos.claims import run_demo
from minidl.demos.command import load
from minidl.demos.vae import VAES

# Weaker than the demos' thresholds; in brackets what was measured


def motion(run):
    assert abs(run["one_frame"] - 0.25) < 0.08  # of 400 clips: 3.7 standard deviations
    assert run["single"] < 0.35
    assert run["single_same_backwards"] >= 0.99
    assert run["early"] > 0.95 and run["late4"] > 0.7 and run["c3d"] > 0.8
    assert run["convgru"] > run["single"] + 0.2
    assert run["late1_steps"] > 1.5 * run["early_steps"]


def order(run):
    assert abs(run["average"] - 0.5) < 0.1  # of 400 videos: 4 standard deviations
    assert run["average_same_exchanged"] >= 0.99
    assert run["lstm"] > 0.75 and run["lstm_same_exchanged"] < 0.25
    assert run["sequence"] > 0.6


def labels(run):
    """One draw of labels after an eighth of the pretraining: gains of this size drown in the choice of labels, so they
    are not asserted."""
    assert min(run.values()) > 0.7  # 0.75, with 2 labels per class; chance: 0.1
    assert run["conv5_denoising_frozen"] > run["conv5_random"] - 0.03


def vae(run):
    assert run["judge"] > 0.88  # 0.91
    assert run["bernoulli10_classes"] == run["gaussian10_classes"] == 10
    assert run["plain2_classes"] <= 6  # 3
    assert run["bernoulli10_parzen"] > run["plain10_parzen"] + 4  # 10.2, 1.6
    assert run["bernoulli10_parzen"] > run["pixels_parzen"] + 2  # 6.2
    assert run["pixels_parzen"] > run["noise_parzen"] + 30  # -40.1
    assert run["manifold_classes"] >= 5  # 7
    for name in VAES:
        assert run[f"{name}_importance"] > run[f"{name}_elbo"]
        assert run[f"{name}_kl"] > 1
    assert run["bernoulli10_elbo"] > -26 and run["gaussian10_elbo"] > 40  # -25.0 and 47.9
    assert -26 < run["bernoulli2_elbo"] < run["bernoulli10_elbo"]  # -25.6


def dcgan(run):
    """Samples are still blurred, and a Gaussian's are likelier."""
    assert run["parzen"] > -20  # -3; uniform noise -40
    assert run["classes"] >= 7  # 9
    assert run["nearest"] > 0.5  # 1.3
    assert run["arithmetic"] > 0.4  # 0.86
    assert run["arithmetic"] > 4 * run["random"]  # 0.03
    assert run["largest_step"] < 0.5  # 0.17


EXPECTED = {"motion": motion, "order": order, "labels": labels, "vae": vae, "dcgan": dcgan}


@pytest.mark.parametrize("name", DEMOS)
def test_a_quick_run_measures_everything_and_shows_most_of_it(name):
    result = run_demo(load(name), seeds=1, quick=True)
    (run,) = result.runs
    assert set(run) == set(RUNS[name])  # what the claims are about, and the tests of the claims
    assert all(math.isfinite(value) for value in run.values())
    counts, expected = ({key for key in numbers if isinstance(numbers[key], int)} for numbers in (run, RUNS[name]))
    assert counts == expected
    assert result.holds is None and [check.holds for check in result.checks] == [None] * len(result.checks)
    assert result.table().row_count == len(result.checks) >= 4
    EXPECTED[name](run)
