"""GRU-RCN: recurrences that keep the image, at five depths of a convolutional network.

Ballas, Yao, Pal and Courville, "Delving Deeper into Convolutional Networks for Learning Video Representations" (ICLR
2016). Each frame goes through VGG-16, each level of which has a convolutional GRU of its own (`nn.ConvGRU2d`, sections
2 and 3 of the paper); the last states classify the video.

    frame t ── VGG-16 ── pool2 ── pool3 ── pool4 ── pool5 ── fc7          percepts
                           │        │        │        │       │
          h(t-1) ───────▶ GRU ──▶  GRU ──▶  GRU ──▶  GRU ──▶ GRU ──▶ h(t)       (──▶ between levels: stacked only)
                           │        │        │        │       │            after the last frame
                         mean     mean     mean     mean    mean           over the positions
                           │        │        │        │       │
                        softmax  softmax  softmax  softmax softmax         averaged
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import minidl
import minidl.functional as F
from minidl import nn

from .vgg import VGG16
from .weights import start


class GRURCN(nn.Module):
    """Percepts, one (N, T, C, H, W) for each level, the lowest first -> log-probabilities (N, classes).

    The probabilities are the mean of the levels' softmax outputs. For the loss take `F.nll_loss`, which is then the
    paper's: the negative logarithm of the averaged probability. `F.cross_entropy` gives the same number, as
    log-probabilities are logits that are normalised already.

    inputs, hidden, kernel_sizes: channels of the percepts, of the states, and the kernels, for each level; by default
    those of VGG-16. dropout: probability, before the classifiers. weights: a safetensors file to start from.

    stacked: the state of the level below, at the same time and max-pooled to size, enters the gates as well (not the
    candidate). bidirectional: a second net reads the video from its end, and the last states of both classify it. With
    both options, the gates see the states of both directions.

    19,476,921 parameters with 101 classes, 123,321 of them the classifiers'; stacked 2,179,072 more; bidirectional
    38,953,337. There are no biases but those of the classifiers.
    """

    def __init__(
        self, classes: int = 101, inputs: Sequence[int] = (128, 256, 512, 512, 4096),
        hidden: Sequence[int] = (64, 128, 256, 256, 512), kernel_sizes: Sequence[int] = (3, 3, 3, 3, 1),
        dropout: float = 0.7, stacked: bool = False, bidirectional: bool = False,
        weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        if not len(inputs) == len(hidden) == len(kernel_sizes) > 0:
            raise ValueError(
                f"inputs, hidden and kernel_sizes need one entry for each level, and at least one: there are "
                f"{len(inputs)}, {len(hidden)} and {len(kernel_sizes)}"
            )
        self.stacked = stacked
        ways = 2 if bidirectional else 1
        below = [0, *(ways * h for h in hidden)] if stacked else [0] * len(hidden)
        with nn.init.skip():  # of VGG-16:                          128x56x56  256x28x28  512x14x14  512x7x7  4096x1x1
            self.gru = nn.ModuleList(  #                             64x56x56  128x28x28  256x14x14  256x7x7   512x1x1
                nn.ConvGRU2d(x, h, k, batch_first=True, bidirectional=bidirectional, lower_channels=c)
                for x, h, k, c in zip(inputs, hidden, kernel_sizes, below, strict=False)
            )
            self.drop = nn.Dropout(dropout)
            self.classifier = nn.ModuleList(nn.Linear(ways * h, classes) for h in hidden)
        start(self, weights)

    def reset_parameters(self) -> None:
        """The initial values of the layers: see `nn.ConvGRU2d` and `nn.Linear`."""
        for layer in (*self.gru, *self.classifier):
            layer.reset_parameters()

    def states(self, percepts: Sequence[Any]) -> list[Any]:
        """The last states of all levels, for each (N, hidden, H, W), or if bidirectional (N, 2 · hidden, H, W): what
        has read the whole video forth, and what has read it back."""
        if len(percepts) != len(self.gru):
            raise ValueError(f"percepts has {len(percepts)} levels, the net {len(self.gru)}")
        found: list[Any] = []
        output: Any = None
        for x, gru in zip(percepts, self.gru, strict=True):
            lower = lower_of_size(output, x) if self.stacked and found else None
            output, last = gru(x, lower=lower)
            found.append(minidl.cat(minidl.unbind(last), 1))
        return found

    def logits(self, percepts: Sequence[Any]) -> Any:
        """What each level says by itself: (N, levels, classes)."""
        states = self.states(percepts)
        scores = [fc(self.drop(h.mean((2, 3)))) for h, fc in zip(states, self.classifier, strict=True)]
        return minidl.stack(scores, 1)

    def forward(self, percepts: Sequence[Any]) -> Any:
        logits = self.logits(percepts)
        # log(1/L sum softmax): from logarithms, as a probability that has rounded to 0 has none
        return minidl.logsumexp(F.log_softmax(logits, 2), 1) - math.log(logits.shape[1])


class VGG16GRURCN(nn.Module):
    """Both parts: clips (N, 3, T, 224, 224), less the mean colour -> log-probabilities (N, classes).

    vgg: trained on images, and then on the frames of the videos, before a recurrence reads it (its fc8 is idle here).
    rcn: see GRURCN; its inputs are the channels of the percepts. To train the recurrences alone, compute
    `clip_percepts` once for each clip, and call rcn with them.
    """

    def __init__(self, vgg: VGG16, rcn: GRURCN):
        super().__init__()
        self.vgg = vgg
        self.rcn = rcn

    def train(self, mode: bool = True) -> VGG16GRURCN:
        """As of any module, but a vgg whose parameters are frozen stays in evaluation mode: what it sees is given."""
        super().train(mode)
        self.vgg.train(mode and any(p.requires_grad for p in self.vgg.parameters()))
        return self

    def forward(self, clip: Any) -> Any:
        return self.rcn(clip_percepts(self.vgg, clip))


def vgg16_gru_rcn(classes: int = 101, stacked: bool = False, bidirectional: bool = False) -> VGG16GRURCN:
    """The paper's net whole: VGG-16 and the recurrences on it."""
    return VGG16GRURCN(VGG16(), GRURCN(classes, stacked=stacked, bidirectional=bidirectional))


def clip_percepts(vgg: VGG16, clip: Any) -> list[Any]:
    """What VGG-16 sees in the frames, all of them one batch: (N, C, T, H, W) -> for each level (N, T, C', H', W')."""
    n, _, frames = clip.shape[:3]
    return [x.unflatten(0, (n, frames)) for x in vgg.percepts(minidl.transpose(clip, 1, 2).flatten(0, 1))]


def lower_of_size(lower: Any, x: Any) -> Any:
    """States (N, T, C, H, W) max-pooled to the size of the percept x above. Raises ValueError if no window fits."""
    windows = [max(1, a // b) for a, b in zip(lower.shape[3:], x.shape[3:], strict=True)]
    pooled = F.max_pool2d(lower.flatten(0, 1), windows).unflatten(0, lower.shape[:2])
    if pooled.shape[3:] != x.shape[3:]:
        raise ValueError(
            f"states of {lower.shape[3]} x {lower.shape[4]} cannot be pooled to the {x.shape[3]} x {x.shape[4]} of the "
            f"percept above: sizes must be divided from level to level"
        )
    return pooled
