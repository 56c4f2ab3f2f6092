"""C3D: convolutions over space and time, 3 x 3 x 3 throughout, learn features of short clips.

Tran, Bourdev, Fergus, Torresani and Paluri, "Learning Spatiotemporal Features with 3D Convolutional Networks" (ICCV
2015), figure 3. Details that the paper leaves open (initial values, learning rates of biases, rounding in pooling) are
those of the authors' Caffe files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import minidl.functional as F
from minidl import nn

from .weights import start


class _C3D(nn.Module):
    """What both nets share; abstract. Children are the figure's boxes in order, each named as there."""

    fc6: nn.Linear
    fc7: nn.Linear
    fc8: nn.Linear

    def reset_parameters(self) -> None:
        """Weights N(0, 0.01), for fc6 and fc7 N(0, 0.005) (standard deviations); biases 1, for conv1a and fc8 0."""
        for name, layer in self.named_children():
            if isinstance(layer, (nn.Conv3d, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.005 if name in ("fc6", "fc7") else 0.01)
                assert layer.bias is not None
                nn.init.constant_(layer.bias, 0.0 if name in ("conv1a", "fc8") else 1.0)

    def forward(self, clip: Any) -> Any:
        """(N, C, T, H, W) -> logits (N, classes)"""
        return self.features(clip, "fc8")

    def features(self, clip: Any, layer: str = "fc6") -> Any:
        """What a layer answers to a clip, after its ReLU: (N, C, T, H, W) -> (N, units) or (N, channels, T', H', W').

        The descriptor of a video is the mean of fc6 over its clips of 16 frames, 8 of which overlap, divided by its
        Euclidean norm (section 3.3). Use evaluation mode: dropout precedes fc7. Raises ValueError if there is no such
        layer.
        """
        boxes = dict(self.named_children())
        if layer not in boxes:
            raise ValueError(f"layer is {layer!r}; {type(self).__name__} has {', '.join(boxes)}")
        x = clip
        for name, box in boxes.items():
            if name == "fc6":
                x = x.flatten(1)  # in the order C, T, H, W
            x = box(x)
            if name in ("fc6", "fc7"):
                x = F.relu(x)
            if name == layer:
                break
        return x

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for an optimizer, as the authors trained: biases learn twice as fast and do not decay.

        The paper trains with SGD, momentum 0.9, batches of 30 clips: `optim.SGD(net.parameter_groups(3e-3, 5e-3),
        momentum=0.9)` is UCF-101 from scratch.
        """
        named = list(self.named_parameters())
        weights = [p for name, p in named if name.endswith("weight")]
        biases = [p for name, p in named if name.endswith("bias")]
        return [
            {"params": weights, "lr": lr, "weight_decay": weight_decay},
            {"params": biases, "lr": 2 * lr, "weight_decay": 0.0},
        ]


class C3D(_C3D):
    """The net trained on Sports-1M (487 classes; 101 for UCF-101). Clips (N, 3, 16, 112, 112) -> logits (N, classes).

    shape: of a clip, (C, T, H, W). width: channels of conv1a. units: of fc6 and fc7. dropout: probability after fc6
    and fc7. weights: a safetensors file to start from; by default drawn as the authors did. The full net has 79,991,015
    parameters with 487 classes and 78,409,573 with 101.
    """

    def __init__(
        self, classes: int = 487, shape: Sequence[int] = (3, 16, 112, 112), width: int = 64, units: int = 4096,
        dropout: float = 0.5, weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        w = width
        with nn.init.skip():  # sizes for width 64       3 x 16 x 112 x 112
            self.conv1a = _conv(shape[0], w)  #         64 x 16 x 112 x 112
            self.pool1 = _pool(1, 2, 2)  #              64 x 16 x 56 x 56
            self.conv2a = _conv(w, 2 * w)  #           128 x 16 x 56 x 56
            self.pool2 = _pool(2, 2, 2)  #             128 x 8 x 28 x 28
            self.conv3a = _conv(2 * w, 4 * w)  #       256 x 8 x 28 x 28
            self.conv3b = _conv(4 * w, 4 * w)  #       256 x 8 x 28 x 28
            self.pool3 = _pool(2, 2, 2)  #             256 x 4 x 14 x 14
            self.conv4a = _conv(4 * w, 8 * w)  #       512 x 4 x 14 x 14
            self.conv4b = _conv(8 * w, 8 * w)  #       512 x 4 x 14 x 14
            self.pool4 = _pool(2, 2, 2)  #             512 x 2 x 7 x 7
            self.conv5a = _conv(8 * w, 8 * w)  #       512 x 2 x 7 x 7
            self.conv5b = _conv(8 * w, 8 * w)  #       512 x 2 x 7 x 7
            self.pool5 = _pool(2, 2, 2)  #             512 x 1 x 4 x 4 = 8192
            self.fc6 = nn.Linear(8 * w * _cells(shape), units)  # 4096
            self.drop6 = nn.Dropout(dropout)
            self.fc7 = nn.Linear(units, units)  # 4096
            self.drop7 = nn.Dropout(dropout)
            self.fc8 = nn.Linear(units, classes)
        start(self, weights)


class SmallC3D(_C3D):
    """The net that the authors train on UCF-101 from scratch: one convolution in each group, half as many units.

    (N, 3, 16, 112, 112) -> logits (N, 101); 17,444,965 parameters. Arguments as in C3D.
    """

    def __init__(
        self, classes: int = 101, shape: Sequence[int] = (3, 16, 112, 112), width: int = 64, units: int = 2048,
        dropout: float = 0.5, weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        w = width
        with nn.init.skip():  # sizes for width 64       3 x 16 x 112 x 112
            self.conv1a = _conv(shape[0], w)  #         64 x 16 x 112 x 112
            self.pool1 = _pool(1, 2, 2)  #              64 x 16 x 56 x 56
            self.conv2a = _conv(w, 2 * w)  #           128 x 16 x 56 x 56
            self.pool2 = _pool(2, 2, 2)  #             128 x 8 x 28 x 28
            self.conv3a = _conv(2 * w, 4 * w)  #       256 x 8 x 28 x 28
            self.pool3 = _pool(2, 2, 2)  #             256 x 4 x 14 x 14
            self.conv4a = _conv(4 * w, 4 * w)  #       256 x 4 x 14 x 14
            self.pool4 = _pool(2, 2, 2)  #             256 x 2 x 7 x 7
            self.conv5a = _conv(4 * w, 4 * w)  #       256 x 2 x 7 x 7
            self.pool5 = _pool(2, 2, 2)  #             256 x 1 x 4 x 4 = 4096
            self.fc6 = nn.Linear(4 * w * _cells(shape), units)  # 2048
            self.drop6 = nn.Dropout(dropout)
            self.fc7 = nn.Linear(units, units)  # 2048
            self.drop7 = nn.Dropout(dropout)
            self.fc8 = nn.Linear(units, classes)
        start(self, weights)


def _conv(inputs: int, outputs: int) -> nn.Conv3d:
    """(N, inputs, T, H, W) -> (N, outputs, T, H, W), after its ReLU"""
    return nn.Conv3d(inputs, outputs, kernel_size=3, padding=1, activation="relu")


def _pool(*size: int) -> nn.MaxPool3d:
    """Caffe rounds sizes up. It matters in pool5: 7 x 7 gives 4 x 4 from rows {0,1} {2,3} {4,5} {6}. Padding by 1 also
    gives 4 x 4, but from rows {0} {1,2} {3,4} {5,6}: the released weights would then see other features."""
    return nn.MaxPool3d(size, ceil_mode=True)


def _cells(shape: Sequence[int]) -> int:
    """How many cells pool5 leaves of a clip (C, T, H, W): time is halved four times, space five times."""
    _, frames, height, width = shape
    return -(-frames // 16) * -(-height // 32) * -(-width // 32)
