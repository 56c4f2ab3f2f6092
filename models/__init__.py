"""The networks. Each module reads like the figure of the paper it comes from.

`MODELS` is the list that the command line offers. It names things and imports nothing, so the list is free to read.
"""

from typing import NamedTuple

if __name__ != "minidl.models":
    raise ImportError(f"import minidl.models, not {__name__}")


class Entry(NamedTuple):
    """A model that can be trained by name. Places are written "module:name"."""

    summary: str
    config: str  # the dataclass of the network's options, with their defaults
    build: str  # (config, shape of one input) -> Module
    recipe: str  # the dataclass of all options of `minidl train`; it extends `config` and has run() -> exit status


MODELS = {
    "ae": Entry(
        "autoencoder on handwritten digits: dense, convolutional or linear",
        config="minidl.models.autoencoder:AutoencoderConfig",
        build="minidl.models.autoencoder:build",
        recipe="minidl.train.autoencoder:TrainAutoencoder",
    ),
}
