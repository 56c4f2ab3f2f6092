"""The demo of local motion, scaled down, and its claims."""

import math

import numpy as np
import pytest

from minidl.demos.claims import run_demo
from minidl.demos.motion import NETS, MotionDemo, steps_to_learn


def test_nets_that_see_motion_learn_it_and_single_frames_do_not():
    (run,) = run_demo(MotionDemo(), seeds=1, quick=True).runs
    assert set(NETS) < set(run)
    assert abs(run["one_frame"] - 0.25) < 0.08  # of 400 clips: 3.7 standard deviations
    assert run["single"] < 0.35
    assert run["single_same_backwards"] >= 0.99
    assert run["early"] > 0.95 and run["late4"] > 0.7 and run["c3d"] > 0.8
    assert run["convgru"] > run["single"] + 0.2
    assert run["late1_steps"] > 1.5 * run["early_steps"]


GOOD = {
    "one_frame": 0.25,
    "single": 0.27,
    "single_same_backwards": 1.0,
    "early": 1.0,
    "c3d": 0.99,
    "convgru": 0.97,
    "late4": 1.0,
    "late1": 0.4,
    "early_steps": 90,
    "late4_steps": 110,
    "late1_steps": 400,
}
WRONG = [
    {"one_frame": 0.31},
    {"one_frame": 0.19},
    {"single": 0.4},
    {"single_same_backwards": 0.5},
    {"early": 0.9},
    {"c3d": 0.9},
    {"convgru": 0.9},
    {"late4": 0.9},
    {"late1_steps": 170},
]


def test_every_claim_can_fail():
    demo = MotionDemo()
    assert all(check.holds for check in demo.check([GOOD, GOOD]))
    failed = [[check.claim for check in demo.check([GOOD | wrong]) if not check.holds] for wrong in WRONG]
    assert all(len(claims) == 1 for claims in failed)
    assert {claims[0] for claims in failed} == {check.claim for check in demo.check([GOOD])}


def test_steps_to_learn_is_where_the_mean_of_the_last_losses_has_halved():
    losses = [1.3] * 50 + [0.01] * 50  # guessing costs log 4 = 1.386
    expected = next(n for n in range(20, 100) if np.mean(losses[n - 20 : n]) < math.log(4) / 2)
    assert steps_to_learn(losses) == expected == 60
    assert steps_to_learn([1.3] * 70) == 70
    assert steps_to_learn([0.01] * 70) == 20


@pytest.mark.slow
def test_the_claims_hold():
    result = run_demo(MotionDemo(), seeds=3)
    assert result.holds, result.checks
