"""Primitives around randomness. They are pure: what was drawn is an argument."""

from __future__ import annotations

from ..core.primitive import Primitive

# mask: boolean, what is kept; scale: what the kept is multiplied with
dropout = Primitive("dropout(x, mask) -> y", lambda g, mask, *, scale: dropout(g, mask, scale=scale), None)
