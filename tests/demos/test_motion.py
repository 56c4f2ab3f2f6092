"""The demo of local motion: its claims."""

import math

import numpy as np
import pytest
from demo_runs import RUNS

from minidl.demos.claims import run_demo
from minidl.demos.motion import MotionDemo, steps_to_learn

GOOD = RUNS["motion"]
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
