"""Reading elements and adding to them, as adjoint pairs. Indices are data without gradients."""

from __future__ import annotations

from ..core.primitive import Primitive

# at: anything NumPy can index with, its arrays of integers or booleans included
getitem = Primitive("getitem(x) -> y", lambda g, _x, *, at: scatter(g, at=at, shape=_x.shape))
scatter = Primitive("scatter(y) -> x", lambda g, *, at, shape: getitem(g, at=at))

gather = Primitive(
    "gather(x, index) -> y", lambda g, index, _x, *, axis: scatter_add(g, index, axis=axis, shape=_x.shape), None
)
scatter_add = Primitive(
    "scatter_add(y, index) -> x", lambda g, index, *, axis, shape: gather(g, index, axis=axis), None
)

diagonal = Primitive("diagonal(x) -> y", lambda g, _x, **axes: diagonal_scatter(g, shape=_x.shape, **axes))
diagonal_scatter = Primitive("diagonal_scatter(y) -> x", lambda g, *, shape, **axes: diagonal(g, **axes))
