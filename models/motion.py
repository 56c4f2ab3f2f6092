"""Six small nets for short clips of moving digits: what each way of treating time can see, and what it cannot.

    SingleFrame         every frame by itself              sees no motion at all
    EarlyFusion         all frames as channels             sees motion in its first layer
    LateFusion          two frames, each in a tower        compares what the towers' poolings have left
    C3DMini             convolutions over space and time   sees motion within its clip
    ConvGRUClassifier   a state that is an image           remembers what was where
    CNNLSTM             a state that is a vector           remembers what there was

The first three are those of Karpathy et al., "Large-scale Video Classification with Convolutional Neural Networks"
(CVPR 2014), figure 1; the others C3D (Tran et al. 2015), GRU-RCN (Ballas et al. 2016) and LRCN (Donahue et al. 2015).
All are made for `minidl.data.torus_motion` (4 classes, 8 frames of 16 x 16 pixels) or `minidl.data.order_task` (2
classes, 24 frames of 12 x 12). They take clips (N, C, T, H, W) and give logits (N, classes); initial values are those
of the layers; weights: a safetensors file to start from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import minidl
import minidl.functional as F
from minidl import nn

from .weights import start

Weights = str | os.PathLike | None


class _Net(nn.Module):
    """What all share; abstract."""

    def reset_parameters(self) -> None:
        """Draw new parameters, each layer as it does by itself."""
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvGRU2d, nn.LSTM, nn.Linear)):
                layer.reset_parameters()


# ---- one image at a time (Karpathy et al.)
class Tower(nn.Module):
    """An image of 16 x 16 pixels as 512 numbers: (N, channels, 16, 16) -> (N, 512)."""

    def __init__(self, channels: int = 1):
        super().__init__()  #                                                          1 x 16 x 16
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, activation="relu")  #      16 x 16 x 16
        self.pool1 = nn.MaxPool2d(2)  #                                               16 x 8 x 8
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, activation="relu")  #            32 x 8 x 8
        self.pool2 = nn.MaxPool2d(2)  #                                               32 x 4 x 4 = 512

    def forward(self, image: Any) -> Any:
        x = self.pool1(self.conv1(image))
        return self.pool2(self.conv2(x)).flatten(1)


class SingleFrame(_Net):
    """Logits of every frame, averaged over the frames. 6,852 parameters."""

    def __init__(self, classes: int = 4, weights: Weights = None):
        super().__init__()
        with nn.init.skip():
            self.tower = Tower()  #                 512, for each frame
            self.fc = nn.Linear(512, classes)
        start(self, weights)

    def forward(self, clip: Any) -> Any:
        return _each_frame(lambda image: self.fc(self.tower(image)), clip).mean(1)


class EarlyFusion(_Net):
    """The frames of a clip are the channels of one image. 7,860 parameters for 8 frames."""

    def __init__(self, classes: int = 4, frames: int = 8, weights: Weights = None):
        super().__init__()
        with nn.init.skip():
            self.tower = Tower(frames)  #           512
            self.fc = nn.Linear(512, classes)
        start(self, weights)

    def forward(self, clip: Any) -> Any:
        return self.fc(self.tower(clip.flatten(1, 2)))


class LateFusion(_Net):
    """Two frames, the first and one `gap` later, go through the same tower; dense layers compare. 70,660 parameters."""

    def __init__(self, classes: int = 4, gap: int = 4, weights: Weights = None):
        super().__init__()
        self.gap = gap
        with nn.init.skip():
            self.tower = Tower()  #                 512, twice
            self.fc1 = nn.Linear(2 * 512, 64)  #    64
            self.fc2 = nn.Linear(64, classes)
        start(self, weights)

    def forward(self, clip: Any) -> Any:
        frames = minidl.unbind(clip, 2)
        if self.gap >= len(frames):
            raise ValueError(f"clip has {len(frames)} frames; with a gap of {self.gap} it needs {self.gap + 1}")
        pair = minidl.cat([self.tower(frames[0]), self.tower(frames[self.gap])], 1)
        return self.fc2(F.relu(self.fc1(pair)))


# ---- convolutions over time (C3D)
class C3DMini(_Net):
    """Convolutions of 3 x 3 x 3, each followed by a pooling of 2 x 2 x 2, which after the first leaves time alone.

        clip 1x8x16x16 - conv1 12x8x8x8 - conv2 24x4x4x4 - conv3 24x2x2x2 - fc

    shape: of a clip, (C, T, H, W). maps: channels of the convolutions. 24,484 parameters; for the clips of the order
    task, `C3DMini(2, (1, 8, 12, 12), (12, 24))`, 9,866.
    """

    def __init__(
        self, classes: int = 4, shape: Sequence[int] = (1, 8, 16, 16), maps: Sequence[int] = (12, 24, 24),
        weights: Weights = None,
    ):  # fmt: skip
        super().__init__()
        channels, frames, height, width = shape
        n = len(maps)
        cells = (frames // 2 ** (n - 1)) * (height // 2**n) * (width // 2**n)
        if cells == 0:
            raise ValueError(f"shape is {tuple(shape)}; that is too small to be halved by {n} poolings")
        with nn.init.skip():
            for i, (inputs, outputs) in enumerate(pairwise((channels, *maps)), 1):
                self.add_module(f"conv{i}", nn.Conv3d(inputs, outputs, 3, padding=1, activation="relu"))
                self.add_module(f"pool{i}", nn.MaxPool3d((1, 2, 2) if i == 1 else 2))
            self.flatten = nn.Flatten()
            self.fc = nn.Linear(maps[-1] * cells, classes)
        start(self, weights)

    def forward(self, clip: Any) -> Any:
        x = clip
        for layer in self.children():
            x = layer(x)
        return x


# ---- a state
class ConvGRUClassifier(_Net):
    """Convolutions of stride 2 for each frame, a convolutional GRU over the frames, the mean of its last state.

        frame 1x16x16 - conv 16x8x8 - GRU 16x8x8 - mean 16 - fc

    maps: channels of the convolutions. hidden: of the state. kernel_size: of the GRU. bias: of the GRU; the paper's has
    none. 14,052 parameters; for the order task, `ConvGRUClassifier(2, maps=(12, 16), hidden=24)`, 27,834.
    """

    def __init__(
        self, classes: int = 4, channels: int = 1, maps: Sequence[int] = (16,), hidden: int = 16, kernel_size: int = 3,
        bias: bool = False, weights: Weights = None,
    ):  # fmt: skip
        super().__init__()
        with nn.init.skip():
            self.conv = _halvings(channels, maps)
            self.gru = nn.ConvGRU2d(maps[-1], hidden, kernel_size, bias=bias, batch_first=True)
            self.fc = nn.Linear(hidden, classes)
        start(self, weights)

    def forward(self, clip: Any) -> Any:
        _, last = self.gru(_each_frame(self.conv, clip))
        return self.fc(last[0].mean((2, 3)))


class CNNLSTM(_Net):
    """Convolutions of stride 2 and a dense layer for each frame, an LSTM over the frames, its last state.

        frame 1x12x12 - conv 12x6x6 - conv 16x3x3 - fc1 32 - LSTM 32 - fc2

    shape: of a frame, (C, H, W). maps: channels of the convolutions. units: of fc1. hidden: of the LSTM. The forget
    gate starts open, with a bias of 1, so that the LSTM remembers before it has learned what (Jozefowicz, Zaremba and
    Sutskever, "An Empirical Exploration of Recurrent Network Architectures", ICML 2015). 15,018 parameters.
    """

    def __init__(
        self, classes: int = 2, shape: Sequence[int] = (1, 12, 12), maps: Sequence[int] = (12, 16), units: int = 32,
        hidden: int = 32, weights: Weights = None,
    ):  # fmt: skip
        super().__init__()
        cells = prod(-(-size // 2 ** len(maps)) for size in shape[1:])
        with nn.init.skip():
            self.conv = _halvings(shape[0], maps)
            self.fc1 = nn.Linear(maps[-1] * cells, units)
            self.lstm = nn.LSTM(units, hidden, batch_first=True)
            self.fc2 = nn.Linear(hidden, classes)
        start(self, weights)

    def reset_parameters(self) -> None:
        """Draw new parameters, each layer as it does by itself; then the bias of the forget gate is 1."""
        super().reset_parameters()
        for bias, value in ((self.lstm.bias_ih_l0, 1.0), (self.lstm.bias_hh_l0, 0.0)):  # they are added
            _, forget, _, _ = bias.data.reshape(4, -1)
            forget[...] = value
            bias.mutated()

    def forward(self, clip: Any) -> Any:
        seen = _each_frame(lambda image: F.relu(self.fc1(self.conv(image).flatten(1))), clip)
        _, (last, _) = self.lstm(seen)
        return self.fc2(last[0])


def _halvings(channels: int, maps: Sequence[int]) -> nn.Sequential:
    """(N, channels, H, W) -> (N, maps[-1], H / 2^n, W / 2^n), rounded up, by n convolutions."""
    layers: dict[str, nn.Module] = {}
    for i, (inputs, outputs) in enumerate(pairwise((channels, *maps))):
        # named as if ReLU were a layer after each, as in files saved when it was
        layers[f"{2 * i}"] = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, activation="relu")
    return nn.Sequential(layers)


def _each_frame(net: Any, clip: Any) -> Any:
    """A net for images on all frames, as one batch: (N, C, T, H, W) -> (N, T, …)."""
    n, _, frames = clip.shape[:3]
    return net(minidl.transpose(clip, 1, 2).flatten(0, 1)).unflatten(0, (n, frames))
