"""The demo of few labels: its parts, and what its claims turn on."""

import numpy as np
import pytest
from demo_runs import RUNS

from minidl.data import digits
from minidl.demos import labels
from minidl.demos.labels import NETS, LabelsDemo, classify, draw, pretrain

RUN = RUNS["labels"]


def test_as_many_labels_of_each_class_as_asked_for_and_no_image_twice():
    for size in (2, 5, 100):
        images, found = draw(size, np.random.default_rng(0)).arrays
        assert np.bincount(found).tolist() == 10 * [size]
        train, train_labels = digits("train").arrays
        places = [np.flatnonzero((train == image).all((1, 2, 3))) for image in images]
        assert all(label in train_labels[place] for place, label in zip(places, found, strict=True))
        assert len({int(place[0]) for place in places}) == 10 * size
    first, again, other = (draw(3, np.random.default_rng(seed)).arrays[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("net", NETS)
def test_codes_have_the_stated_size(net):
    model, encoder, features = NETS[net][0]()
    images = digits("test").arrays[0][:3]
    assert encoder(images).flatten(1).shape == (3, features)
    assert model(images).shape == (3, 1, 8, 8)
    inside = {id(p) for p in model.parameters()}
    assert {id(p) for p in encoder.parameters()} < inside


def test_pretraining_depends_on_the_noise_and_frozen_encoders_stay(monkeypatch):
    build = NETS["conv"][0]
    clean, again, noisy = (pretrain(build, noise, seed=0, steps=4) for noise in (0.0, 0.0, 0.5))
    for name, value in clean.items():
        np.testing.assert_array_equal(value.numpy(), again[name].numpy())
    assert not np.array_equal(clean["0.weight"].numpy(), noisy["0.weight"].numpy())

    trained = []
    monkeypatch.setattr(labels, "accuracy", lambda model, dataset: trained.append(model) or 0.5)
    labelled = draw(2, np.random.default_rng(0))
    for frozen in (True, False):
        assert classify(build, clean, frozen, labelled, seed=0, steps=3) == 0.5
    stayed, moved = (model.encoder.state_dict()["0.weight"].numpy() for model in trained)
    np.testing.assert_array_equal(stayed, clean["0.weight"].numpy())
    assert not np.array_equal(moved, stayed)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"conv5_denoising_frozen": 0.82}, [0]),
        ({"conv5_random": 0.88}, [0]),
        ({"conv10_denoising_frozen": 0.85}, [0]),
        ({"conv2_denoising_frozen": 0.74}, [1]),
        ({"conv100_ae_frozen": 0.93}, [2]),
        ({"conv100_denoising": 0.96}, [2]),
        ({"mlp5_ae_frozen": 0.9, "mlp5_denoising_frozen": 0.9}, [3]),
    ],
)
def test_each_claim_fails_when_its_numbers_do(changes, fails):
    checks = LabelsDemo().check([RUN | changes, RUN | changes])
    assert [i for i, check in enumerate(checks) if not check.holds] == fails
    assert all(f"{value:.3f}" in checks[0].measured for name, value in (RUN | changes).items() if "conv5_" in name)
