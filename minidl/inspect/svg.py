"""A Drawing as SVG: text is measured with care, boxes are placed by `layout`, colours follow the reader's page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from .drawing import Drawing, Node
from .layout import Cluster, Curve, Rect, place

# in pixels
FONT = 12.0
LINE = 16.0
CELL = 0.62  # width of a letter / size of the font: that of the widest usual monospaced fonts, and a little more
PADDING = (12.0, 8.0)
SMALL_PADDING = (10.0, 4.0)
MARGIN = 20.0
TITLE = 17.0
LONGEST = 56  # letters in a line; what is cut off is in the tooltip

_LIGHT = {
    "page": "fill:#ffffff", "frame": "fill:#64748b;fill-opacity:.07;stroke:#94a3b8", "title": "fill:#0f172a",
    "faint": "fill:#64748b", "text": "fill:#0f172a", "edge": "stroke:#64748b", "tip": "fill:#64748b",
    "plain": "fill:#ffffff;stroke:#94a3b8", "weights": "fill:#dbeafe;stroke:#3b82f6",
    "end": "fill:#dcfce7;stroke:#22a55a", "held": "fill:#fef3c7;stroke:#d08a10",
}  # fmt: skip
_DARK = {
    "page": "fill:#15191f", "frame": "fill:#94a3b8;fill-opacity:.08;stroke:#64748b", "title": "fill:#f1f5f9",
    "faint": "fill:#9aa7b8", "text": "fill:#e8edf4", "edge": "stroke:#8b98a9", "tip": "fill:#8b98a9",
    "plain": "fill:#1f252e;stroke:#64748b", "weights": "fill:#1d3557;stroke:#60a5fa",
    "end": "fill:#173a28;stroke:#4ade80", "held": "fill:#43341a;stroke:#fbbf24",
}  # fmt: skip


def svg(drawing: Drawing) -> str:
    """See Drawing.to_svg."""
    sizes = [box_size(node) for node in drawing.nodes]
    clusters = [
        Cluster(-1 if c.parent is None else c.parent, (text_width(_label(c.heading)) + 10.0, LINE + 6.0))
        for c in drawing.clusters
    ]
    inside = [-1 if node.cluster is None else node.cluster for node in drawing.nodes]
    placed = place(sizes, [(e.source, e.target) for e in drawing.edges], inside, clusters)
    head = 2 * LINE + 18.0
    width = 2 * MARGIN + max(
        placed.width, text_width(_cut(drawing.title), TITLE), text_width(_cut(drawing.caption, 120))
    )
    height = 2 * MARGIN + head + placed.height
    left = (width - placed.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="minidl-drawing" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" font-size="{_n(FONT)}" '
        f"font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace\">",
        f"<title>{_escaped(drawing.title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{_n(width)}" height="{_n(height)}"/>',
        f'<text class="title" x="{_n(MARGIN)}" y="{_n(MARGIN + TITLE - 3)}" font-size="{_n(TITLE)}" '
        f'font-weight="bold">{_escaped(_cut(drawing.title))}</text>',
        f'<text class="faint" x="{_n(MARGIN)}" y="{_n(MARGIN + TITLE + LINE)}">'
        f"{_escaped(_cut(drawing.caption, 120))}</text>",
        f'<g transform="translate({_n(left)} {_n(MARGIN + head)})">',
    ]
    for cluster, rect in zip(drawing.clusters, placed.clusters, strict=True):
        parts += [
            f"<g><title>{_escaped(' '.join(filter(None, (cluster.name, cluster.type))))}</title>",
            _rect("frame", rect, 8),
            _heading(cluster.heading, rect.x + 10, rect.y + LINE, "start"),
            "</g>",
        ]
    for curve in placed.curves:
        parts.append(_curve(curve, drawing.edges[curve.edge].label))
    for node, rect in zip(drawing.nodes, placed.boxes, strict=True):
        parts.append(_box(node, rect))
    return "\n".join([*parts, "</g>", "</svg>", ""])


# ---- boxes
def box_size(node: Node) -> tuple[float, float]:
    """Room for the text of a node."""
    lines = [_label(node.heading), *map(_cut, node.details)]
    across, down = SMALL_PADDING if node.kind == "function" else PADDING
    return 2 * across + max(map(text_width, lines)), 2 * down + LINE * len(lines)


def text_width(text: str, font: float = FONT) -> float:
    """How wide a text is at most; letters of East Asian scripts and emoji take two cells."""
    cells = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return cells * CELL * font


def _label(heading: tuple[str, str]) -> str:
    return " ".join(filter(None, _short(heading)))


def _short(heading: tuple[str, str]) -> tuple[str, str]:
    return _cut(heading[0], LONGEST // 2), _cut(heading[1], LONGEST // 2)


def _cut(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _box(node: Node, rect: Rect) -> str:
    look = {"input": "end", "output": "end", "parameter": "held", "buffer": "held", "leaf": "held"}.get(node.kind)
    look = look or ("weights" if node.parameters else "plain")
    whole = "\n".join([" ".join(filter(None, (node.name, node.type))), *node.details])
    round_ = rect.height / 2 if node.kind in ("function", "input", "output") else 4
    x, y = rect.x + rect.width / 2, rect.y + rect.height / 2 - LINE * (1 + len(node.details)) / 2 + FONT
    parts = [f"<g><title>{_escaped(whole)}</title>", _rect(look, rect, min(round_, 14)), _heading(node.heading, x, y)]
    for i, line in enumerate(node.details, 1):
        parts.append(
            f'<text class="faint" x="{_n(x)}" y="{_n(y + i * LINE)}" text-anchor="middle">{_escaped(_cut(line))}</text>'
        )
    return "".join([*parts, "</g>"])


def _heading(heading: tuple[str, str], x: float, y: float, anchor: str = "middle") -> str:
    bold, plain = map(_escaped, _short(heading))
    bold = f'<tspan font-weight="bold">{bold}</tspan>' if bold else ""
    text = " ".join(filter(None, (bold, plain)))
    return f'<text class="text" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{text}</text>'


def _rect(look: str, rect: Rect, radius: float) -> str:
    x, y, width, height = map(_n, rect)
    return f'<rect class="{look}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{_n(radius)}"/>'


# ---- edges
def _curve(curve: Curve, label: str) -> str:
    """A line with vertical tangents through the points, and an arrowhead."""
    points = list(curve.points)
    x, y = points[-1]
    if curve.arrow:
        points[-1] = (x, y - 5.0)  # the line ends inside the head
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}", *(_piece(a, b) for a, b in pairwise(points))]
    title = f"<title>{_escaped(label)}</title>" if label else ""
    path = f'<path class="edge" d="{"".join(parts)}"/>'
    head = f'<path class="tip" d="M{_n(x)} {_n(y)}l-4 -7h8z"/>' if curve.arrow else ""
    return f"<g>{title}{path}{head}</g>"


def _piece(a: Sequence[float], b: Sequence[float]) -> str:
    if abs(a[0] - b[0]) < 0.05:
        return f"V{_n(b[1])}"
    middle = _n((a[1] + b[1]) / 2)
    return f"C{_n(a[0])} {middle} {_n(b[0])} {middle} {_n(b[0])} {_n(b[1])}"


# ---- text
def _style() -> str:
    """Colours by class, for this drawing only: a notebook puts several into one page."""
    rules = lambda looks: "".join(f".minidl-drawing .{name}{{{look}}}" for name, look in looks.items())
    line = ".minidl-drawing .edge{fill:none;stroke-width:1.3}"
    return f"{rules(_LIGHT)}{line}@media(prefers-color-scheme:dark){{{rules(_DARK)}}}"


def _n(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def _escaped(text: str) -> str:
    """As content of an element; characters that XML forbids are replaced."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
