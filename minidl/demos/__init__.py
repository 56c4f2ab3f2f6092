"""The lecture's claims, each trained and measured here: `minidl demo motion`.

A demo makes its data, trains the nets that the lecture compares, several times with different seeds, and says of each
claim what was measured and whether it holds. `DEMOS` is the list that the command line offers; it imports nothing.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A demo that can be run by name. The place is written "module:class"."""

    summary: str
    demo: str


DEMOS = {
    "motion": Entry("local motion: one frame, fused frames, C3D and a ConvGRU", "minidl.demos.motion:MotionDemo"),
    "order": Entry("long-range order: averaged clips against recurrent nets", "minidl.demos.order:OrderDemo"),
    "labels": Entry("few labels: does an autoencoder's encoder help?", "minidl.demos.labels:LabelsDemo"),
    "vae": Entry("variational autoencoder: samples of all classes", "minidl.demos.vae:VAEDemo"),
    "dcgan": Entry("DCGAN: samples, and arithmetic with codes", "minidl.demos.dcgan:DCGANDemo"),
}
