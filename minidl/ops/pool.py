"""Pooling, as adjoint pairs. One frozen PoolGeometry carries all sizes."""

from __future__ import annotations

from ..core.primitive import Primitive

max_pool = Primitive(
    "max_pool(x) -> y, indices", lambda gs, indices, *, geometry: max_unpool(gs[0], indices, geometry=geometry)
)
max_unpool = Primitive(
    "max_unpool(y, indices) -> x", lambda g, indices, *, geometry: pool_at(g, indices, geometry=geometry), None
)
pool_at = Primitive(
    "pool_at(x, indices) -> y", lambda g, indices, *, geometry: max_unpool(g, indices, geometry=geometry), None
)

avg_pool = Primitive("avg_pool(x) -> y", lambda g, **at: avg_unpool(g, **at))
avg_unpool = Primitive("avg_unpool(y) -> x", lambda g, **at: avg_pool(g, **at))

unfold = Primitive("unfold(x) -> columns", lambda g, *, geometry: fold(g, geometry=geometry))
fold = Primitive("fold(columns) -> x", lambda g, *, geometry: unfold(g, geometry=geometry))
