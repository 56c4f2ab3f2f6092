"""Drawing: boxes and edges with what they say, as SVG, as DOT text, or for a program to read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .values import leaves

Kind = Literal["input", "output", "layer", "function", "parameter", "buffer", "operation", "leaf"]


@dataclass(frozen=True)
class Node:
    """A box. What does not apply is empty or 0."""

    id: int  # its place in Drawing.nodes
    kind: Kind
    name: str  # of the layer, parameter or input; dotted
    type: str = ""  # the layer's class, the primitive's name
    shape: Any = None  # of the output, or tuples, lists, dicts of shapes; None if there is none
    parameters: int = 0  # how many; one that several layers share is counted in the first
    saved: tuple[tuple[str, int], ...] = ()  # what a recorded operation keeps for its gradient: argument, bytes
    saved_bytes: int = 0  # the same in all; an array that is kept under two names is counted once
    cluster: int | None = None  # the innermost cluster around it
    heading: tuple[str, str] = ("", "")  # what is written: in bold, and beside it
    details: tuple[str, ...] = ()  # and below


@dataclass(frozen=True)
class Edge:
    """A tensor on its way from the node that made it to one that uses it, both by their ids."""

    source: int
    target: int
    label: str = ""


@dataclass(frozen=True)
class Cluster:
    """A layer that is made of layers: a frame around its nodes."""

    id: int  # its place in Drawing.clusters
    name: str  # dotted
    type: str
    parent: int | None  # the cluster around it
    heading: tuple[str, str]


@dataclass(frozen=True)
class Drawing:
    """A graph to look at. In a notebook it shows itself; `save("net.svg")` writes a file that browsers show."""

    title: str
    caption: str
    nodes: tuple[Node, ...]  # from the inputs to the outputs
    edges: tuple[Edge, ...]
    clusters: tuple[Cluster, ...] = ()

    def __repr__(self) -> str:
        return f"<Drawing of {self.title}: {len(self.nodes)} nodes, {len(self.edges)} edges>"

    def to_svg(self) -> str:
        """A picture as SVG: one text without references to other files, light or dark as the reader prefers."""
        from .svg import svg

        return svg(self)

    _repr_svg_ = to_svg  # what notebooks look for

    def to_dot(self) -> str:
        """The graph in the language of Graphviz, https://graphviz.org/doc/info/lang.html, to be laid out by it."""
        lines = [f"digraph {_quoted(self.title)} {{"]
        lines += [f"  label={_quoted(self.title + chr(10) + self.caption)}; labelloc=t;"]
        lines += ['  node [shape=box, style=rounded, fontname="monospace"]; edge [fontname="monospace"];']
        lines += [f"  {line}" for line in self._dot(None)]
        for edge in self.edges:
            label = f" [tooltip={_quoted(edge.label)}]" if edge.label else ""
            lines.append(f"  n{edge.source} -> n{edge.target}{label};")
        return "\n".join([*lines, "}", ""])

    def _dot(self, cluster: int | None) -> Iterable[str]:
        """The nodes directly inside a cluster, and the clusters."""
        for node in self.nodes:
            if node.cluster == cluster:
                label = "\n".join([" ".join(filter(None, node.heading)), *node.details])
                shape = {"layer": "", "operation": ""}.get(node.kind, ", shape=ellipse")
                yield f"n{node.id} [label={_quoted(label)}{shape}];"
        for inner in self.clusters:
            if inner.parent == cluster:
                yield f"subgraph cluster_{inner.id} {{"
                yield f"  label={_quoted(' '.join(filter(None, inner.heading)))};"
                yield from (f"  {line}" for line in self._dot(inner.id))
                yield "}"

    def save(self, path: str | os.PathLike) -> None:
        """Write the drawing to a file, .svg or .dot by the ending of its name; the file is whole or not there.

        Raises ValueError for another ending, OSError if the file cannot be written.
        """
        path = Path(path)
        forms = {".svg": self.to_svg, ".dot": self.to_dot}
        if path.suffix not in forms:
            raise ValueError(f"path is {str(path)!r}: its ending must be one of {', '.join(forms)}")
        content = forms[path.suffix]()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(content, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):  # after a failure it is still there
                temporary.unlink()


def check_limit(function: str, count: int, most: int) -> None:
    """Raise ValueError if a graph has more nodes than a drawing should."""
    if count > most:
        raise ValueError(
            f"{function}: the graph has more than most={most} nodes, and nobody could read them; draw a smaller part, "
            f"or give a larger `most`"
        )


def shape_text(shape: Any) -> str:
    """2×3×4, of several tensors in one line."""
    return ", ".join("×".join(map(str, s)) or "scalar" if isinstance(s, tuple) else str(s) for s in leaves(shape))


def _quoted(text: str) -> str:
    """A string of the DOT language."""
    text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
