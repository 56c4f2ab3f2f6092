"""The demo of long-range order: its nets and its claims."""

import numpy as np
import pytest
from demo_runs import RUNS

import minidl
from minidl import Tensor
from minidl.data import ArrayDataset, order_task
from minidl.demos.claims import run_demo
from minidl.demos.order import CLIP, ClipAverage, ClipSequence, OrderDemo, exchanged
from minidl.models.motion import C3DMini


def test_the_average_of_clips_is_that_of_their_probabilities():
    minidl.manual_seed(0)
    net = C3DMini(2, (1, CLIP, 12, 12), (2, 3))
    (videos, _) = order_task("test", 5).arrays
    logits = [net(Tensor(videos[:, :, begin : begin + CLIP])).numpy() for begin in (0, 8, 16)]
    probabilities = [np.exp(y) / np.exp(y).sum(1, keepdims=True) for y in logits]
    said = np.exp(ClipAverage(net)(Tensor(videos)).numpy())
    np.testing.assert_allclose(said, np.mean(probabilities, 0), rtol=1e-5)


def test_a_sequence_of_clips_reads_them_in_their_order():
    minidl.manual_seed(0)
    model = ClipSequence(C3DMini(4, (1, CLIP, 12, 12), (2, 3)), features=4, clips=3, classes=2)
    (videos, _) = order_task("test", 5).arrays
    clips = [videos[:, :, begin : begin + CLIP] for begin in (0, 8, 16)]
    features = np.concatenate([model.net(Tensor(np.ascontiguousarray(c))).numpy() for c in clips], 1)
    expected = features @ model.fc.weight.numpy().T + model.fc.bias.numpy()
    np.testing.assert_allclose(model(Tensor(videos)).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_exchanged_videos_have_the_other_label():
    videos = np.arange(24, dtype=np.float32).reshape(1, 1, 24, 1, 1)
    other = exchanged(ArrayDataset(videos, np.array([1])))
    assert other.arrays[0].ravel().tolist() == [*range(16, 24), *range(8, 16), *range(8)]
    assert other.arrays[1].tolist() == [0]


GOOD = RUNS["order"]
WRONG = [
    {"average": 0.56},
    {"average": 0.44},
    {"average_same_exchanged": 0.9},
    {"lstm_same_exchanged": 0.5},
    {"sequence": 0.85},
    {"lstm": 0.85},
    {"convgru": 0.85},
]


def test_every_claim_can_fail():
    demo = OrderDemo()
    assert all(check.holds for check in demo.check([GOOD, GOOD]))
    failed = [[check.claim for check in demo.check([GOOD | wrong]) if not check.holds] for wrong in WRONG]
    assert all(len(claims) == 1 for claims in failed)
    assert {claims[0] for claims in failed} == {check.claim for check in demo.check([GOOD])}
    assert not all(check.holds for check in demo.check([GOOD | {"average": 0.4}, GOOD | {"average": 0.6}]))


@pytest.mark.slow
def test_the_claims_hold():
    result = run_demo(OrderDemo(), seeds=3)
    assert result.holds, result.checks
