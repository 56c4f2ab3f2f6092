"""The lists of the command line name things that exist, and each network has the size that its summary says."""

from dataclasses import fields, is_dataclass
from importlib import import_module

import pytest

import minidl
from minidl import nn
from minidl.models import MODELS, NETWORKS

PARAMETERS = {
    "ae-mnist": 2_837_314, "vae": 815_824, "dcgan": 3_576_704, "dcgan-discriminator": 2_765_568,
    "dcgan-paper": 18_885_760, "c3d": 79_991_015, "c3d-small": 17_444_965, "c3d-mini": 24_484, "vgg16": 138_357_544,
    "convgru": 14_052, "gru-rcn": 138_357_544 + 19_476_921,
}  # fmt: skip


def named(place):
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", MODELS)
def test_recipes(name):
    entry = MODELS[name]
    recipe = named(entry.recipe)
    assert entry.summary and is_dataclass(recipe) and recipe.model == name
    recipe().check()
    assert all(field.default is not None or "None" in str(field.type) for field in fields(recipe))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    network = NETWORKS[name]
    with nn.init.skip():
        model = named(network.place)(**network.options)
    assert network.summary
    assert minidl.summary(model, network.shape).parameters == PARAMETERS.get(
        name, sum(p.numel() for p in model.parameters())
    )
