"""Rearranging elements, as adjoint pairs: the gradient of each is the other."""

from __future__ import annotations

from ..core.primitive import ListPrimitive, Primitive

reshape = Primitive("reshape(x) -> y", lambda g, _x, *, shape: reshape(g, shape=_x.shape))
transpose = Primitive(
    "transpose(x) -> y", lambda g, *, axes: transpose(g, axes=tuple(map(axes.index, range(len(axes)))))
)
flip = Primitive("flip(x) -> y", lambda g, *, axis: flip(g, axis=axis))
roll = Primitive("roll(x) -> y", lambda g, *, shift, axis: roll(g, shift=tuple(-s for s in shift), axis=axis))

# width: (before, after) on each axis
pad = Primitive("pad(x) -> y", lambda g, *, width, value: crop(g, width=width))
crop = Primitive("crop(y) -> x", lambda g, *, width: pad(g, width=width, value=0.0))

# sizes: the lengths of the parts along the axis
cat = ListPrimitive("cat(*xs) -> y", lambda g, **at: split(g, **at))
split = Primitive("split(y) -> *xs", lambda gs, **at: cat(*gs, **at))
stack = ListPrimitive("stack(*xs) -> y", lambda g, *, axis: unbind(g, axis=axis))
unbind = Primitive("unbind(y) -> *xs", lambda gs, *, axis: stack(*gs, axis=axis))
