"""What `minidl bench` measures.

`WORKLOADS` names things and imports nothing. A place "module:function" is a function (library, **sizes) -> {case: Case}
that makes nothing yet; sizes are its keyword arguments. Its text for PyTorch is what anyone would write there, with the
same shapes, weights and data: the results of both sides are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Workload(NamedTuple):
    """A row of the table.

    usual: whether it is measured when nothing is asked for. sweep: for --sweep, the values of each size. cuda: sizes
    on a CUDA device, unless others are asked for; None: it makes no sense there. usual_on_cuda: as usual, there.
    """

    summary: str
    place: str
    usual: bool = False
    sweep: Mapping[str, tuple[int, ...]] = {}
    cuda: Mapping[str, int] | None = {}
    usual_on_cuda: bool = False


WORKLOADS = {
    "c3d": Workload(
        "C3D on clips 3x16x112x112, batch 2: SGD step, forward", "c3d:cases", True,
        {"batch": (1, 2, 4), "frames": (8, 16, 32), "size": (56, 112, 168)}, {"batch": 16},
    ),
    "convgru": Workload(
        "ConvGRU 64->64, 28x28, 10 frames, batch 4: forward and backward", "convgru:cases", True,
        {"batch": (1, 4, 16), "frames": (5, 10, 20), "size": (14, 28, 56)},
    ),
    "dcgan": Workload(
        "DCGAN 64x64, batch 32: step of both players", "dcgan:cases", True,
        {"batch": (8, 32, 128), "size": (32, 64, 128)},
    ),
    "conv-vae": Workload(
        "convolutional VAE 28x28, batch 128: Adam step", "vae:conv", True,
        {"batch": (32, 128, 512), "size": (16, 28, 56)},
    ),
    "mlp-vae": Workload(
        "VAE 784-400-20, batch 128: Adam step", "vae:mlp", True, {"batch": (32, 128, 512)}
    ),
    "autoencoder": Workload(
        "autoencoder 784-1000-500-250-30, batch 128: Adam step", "autoencoder:cases", False, {"batch": (32, 128, 512)}
    ),
    "conv": Workload("convolutions and poolings, layer by layer", "conv:cases"),
    "conv3d": Workload(
        "C3D's convolutions, batch 16: forward, gradient of the input, gradient of the weight", "convolutions:cases",
        usual_on_cuda=True,
    ),
    "batch-norm": Workload("batch norm 32x64x56x56: forward and backward", "layers:batch_norm"),
    "max-pool3d": Workload(
        "max pooling 2x2x2, 2x128x16x56x56: forward and backward", "layers:max_pool3d", cuda={"batch": 16},
        usual_on_cuda=True,
    ),
    "mobilenet": Workload("depthwise separable convolutions, images 112x112, batch 16: SGD step", "mobilenet:cases"),
    "optimizers": Workload("Adam and SGD, 10 M parameters; PyTorch's default and fused", "optimizers:cases"),
    "elementwise": Workload("add, mul, exp, tanh and sum of 10 M numbers", "elementwise:cases"),
    "overhead": Workload("what one small operation costs, 8x8", "overhead:cases", cuda=None),
}  # fmt: skip
