"""VGG-16: thirteen convolutions of 3 x 3 and three dense layers. Its answers at five depths are what GRU-RCN reads.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), table 1,
configuration D. Layers have the names of the authors' Caffe files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import minidl.functional as F
from minidl import nn

from .weights import start

PERCEPTS = ("pool2", "pool3", "pool4", "pool5", "fc7")
"""The five depths: what the recurrences of Ballas et al. (ICLR 2016) take."""


class VGG16(nn.Module):
    """Images (N, 3, 224, 224), less the mean colour -> logits (N, classes).

    shape: of an image, (C, H, W), at least 32 pixels on a side; 20 channels for ten fields of optical flow. width:
    channels of the first group. units: of fc6 and fc7. dropout: probability after fc6 and fc7. weights: a safetensors
    file to start from. 138,357,544 parameters with 1000 classes, 134,674,341 with 101.

    The paper trains with SGD, momentum 0.9, rate 0.01, weight decay 5e-4, batches of 256 images.
    """

    def __init__(
        self, classes: int = 1000, shape: Sequence[int] = (3, 224, 224), width: int = 64, units: int = 4096,
        dropout: float = 0.5, weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        channels, height, columns = shape
        if min(height, columns) < 32:
            raise ValueError(f"shape is {tuple(shape)}; five poolings need images of at least 32 x 32 pixels")
        w = width
        with nn.init.skip():  # sizes for width 64           3 x 224 x 224
            self.conv1_1 = _conv(channels, w)  #            64 x 224 x 224
            self.conv1_2 = _conv(w, w)  #                   64 x 224 x 224
            self.pool1 = _pool()  #                         64 x 112 x 112
            self.conv2_1 = _conv(w, 2 * w)  #              128 x 112 x 112
            self.conv2_2 = _conv(2 * w, 2 * w)  #          128 x 112 x 112
            self.pool2 = _pool()  #                        128 x 56 x 56
            self.conv3_1 = _conv(2 * w, 4 * w)  #          256 x 56 x 56
            self.conv3_2 = _conv(4 * w, 4 * w)  #          256 x 56 x 56
            self.conv3_3 = _conv(4 * w, 4 * w)  #          256 x 56 x 56
            self.pool3 = _pool()  #                        256 x 28 x 28
            self.conv4_1 = _conv(4 * w, 8 * w)  #          512 x 28 x 28
            self.conv4_2 = _conv(8 * w, 8 * w)  #          512 x 28 x 28
            self.conv4_3 = _conv(8 * w, 8 * w)  #          512 x 28 x 28
            self.pool4 = _pool()  #                        512 x 14 x 14
            self.conv5_1 = _conv(8 * w, 8 * w)  #          512 x 14 x 14
            self.conv5_2 = _conv(8 * w, 8 * w)  #          512 x 14 x 14
            self.conv5_3 = _conv(8 * w, 8 * w)  #          512 x 14 x 14
            self.pool5 = _pool()  #                        512 x 7 x 7 = 25088
            self.fc6 = nn.Linear(8 * w * (height // 32) * (columns // 32), units)  # 4096
            self.drop6 = nn.Dropout(dropout)
            self.fc7 = nn.Linear(units, units)  #         4096
            self.drop7 = nn.Dropout(dropout)
            self.fc8 = nn.Linear(units, classes)
        start(self, weights)

    def reset_parameters(self) -> None:
        """Weights by Glorot and Bengio, biases 0. The authors began with a shallower net that they had trained before,
        and found later that this does as well (section 3.1)."""
        for layer in self.children():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, image: Any) -> Any:
        """(N, C, H, W) -> logits (N, classes)"""
        return self.features(image, "fc8")

    def features(self, image: Any, layer: str = "fc7") -> Any:
        """What a layer answers to an image, after its ReLU: (N, C, H, W) -> (N, units) or (N, channels, H', W').

        Use evaluation mode: dropout precedes fc7 and fc8. Raises ValueError if there is no such layer.
        """
        for name, answer in self._answers(image):
            if name == layer:
                return answer
        names = ", ".join(name for name, _ in self.named_children())
        raise ValueError(f"layer is {layer!r}; {type(self).__name__} has {names}")

    def percepts(self, image: Any) -> list[Any]:
        """The answers at five depths: (N, 3, 224, 224) ->

            pool2 (N, 128, 56, 56)   pool3 (N, 256, 28, 28)   pool4 (N, 512, 14, 14)   pool5 (N, 512, 7, 7)
            fc7 (N, 4096, 1, 1)

        What is computed once in evaluation mode, under no_grad(), can be kept for all epochs.
        """
        found = []
        for name, answer in self._answers(image):
            if name in PERCEPTS:
                found.append(answer if answer.ndim == 4 else answer.reshape(*answer.shape, 1, 1))
            if name == PERCEPTS[-1]:
                break
        return found

    def _answers(self, image: Any) -> Iterator[tuple[str, Any]]:
        """The boxes by name, each with what it gives, as far as the caller wants to go."""
        x = image
        for name, box in self.named_children():
            if name == "fc6":
                x = x.flatten(1)  # in the order C, H, W
            x = box(x)
            if name in ("fc6", "fc7"):
                x = F.relu(x)
            yield name, x


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    """(N, inputs, H, W) -> (N, outputs, H, W), after its ReLU"""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, activation="relu")


def _pool() -> nn.MaxPool2d:
    """(N, C, H, W) -> (N, C, H / 2, W / 2), rounded down"""
    return nn.MaxPool2d(2)
