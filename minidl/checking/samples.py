"""The one table of sample inputs: a row for every primitive, every public function and every layer.

The tests and `minidl gradcheck` read it. A new operation needs a row here (in the file of its family); a test
compares the table with the primitives and with the kernel table, so one without a row does not go unnoticed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain

from .. import functional  # noqa: F401  (makes every primitive known)
from . import samples_elementwise, samples_spatial, samples_structure
from .sample import Case, Sample

KINDS = ("primitive", "function", "layer")


@lru_cache(maxsize=1)
def table() -> dict[str, Sample]:
    """Every row by its name. Functions are named as in `minidl.functional`; where a primitive has the same name the
    function is "functional.name", and layers are "nn.Name"."""
    from . import samples_functional, samples_layers

    families = (samples_elementwise, samples_structure, samples_spatial, samples_functional, samples_layers)
    rows = list(chain.from_iterable(family.samples() for family in families))
    found = {row.name: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"two samples share a name: {sorted({r.name for r in rows if rows.count(r) > 1})}")
    return found


def of_kind(kind: str) -> list[Sample]:
    """The rows of one kind, in the table's order."""
    return [row for row in table().values() if row.kind == kind]


__all__ = ["KINDS", "Case", "Sample", "of_kind", "table"]
