"""Where the boxes of a drawing go: a layered layout, from top to bottom.

Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (1981), in four steps:

1. every box gets a rank, the length of the longest path to it, so that all edges go down;
2. an edge that skips ranks gets a virtual box in each; edges of one source share theirs, like a bus;
3. sweeps down and up order the boxes of a rank by the mean position of their neighbours (barycentres), and the order
   with the fewest crossings is kept;
4. sweeps down and up move the boxes towards the median of their neighbours (Gansner, Koutsofios, North and Vo, "A
   Technique for Drawing Directed Graphs", 1993), as near as the order and the distances allow.

Curves run vertically beside the boxes of a rank and bend only between ranks, so they never cross a box. A cluster is
laid out by itself and is then one box of the level around it; edges enter it at the top and leave it at the bottom
through ports, one for each source. Nothing here is random: the same graph gives the same drawing.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

# in pixels
BETWEEN = 24.0  # boxes of one rank
BESIDE = 13.0  # a box and an edge that passes it, or two such edges
BELOW = 26.0  # from rank to rank at least; more where edges go far to the side
PORT = 14.0  # from a border of a cluster, or the row of its label, to the next rank
INSIDE = 12.0  # from a border of a cluster to what is inside
SWEEPS = 12

Point = tuple[float, float]


class Rect(NamedTuple):
    """A rectangle by its left upper corner, y pointing down."""

    x: float
    y: float
    width: float
    height: float


class Curve(NamedTuple):
    """A part of the way of an edge: through these points, leaving and reaching each vertically."""

    edge: int  # which edge; several may share a part, of which one is named
    points: list[Point]
    arrow: bool  # it ends at the edge's target, not at the border of a cluster


class Cluster(NamedTuple):
    """A rectangle around boxes, and the size of its label."""

    parent: int  # the cluster around it, or -1
    label: tuple[float, float]


class Placement(NamedTuple):
    """Where everything goes, in a page of this size."""

    boxes: list[Rect]
    clusters: list[Rect]
    curves: list[Curve]
    width: float
    height: float


def place(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    inside: Sequence[int] | None = None,
    clusters: Sequence[Cluster] = (),
) -> Placement:
    """Lay out a graph without cycles.

    sizes: (width, height) of each box. edges: (source, target) as indices of boxes. inside: for each box the innermost
    cluster around it, or -1. A cluster comes after its parent. Raises ValueError if there is a cycle, also one that
    runs through a cluster as a whole.
    """
    return _Page(sizes, edges, inside or [-1] * len(sizes), clusters).placement()


# ---- clusters
# An end of a link within one level: (what, its number, the box where the edge starts). What: a "box" or a "cluster" of
# this level, or a port of the cluster that is this level, "in" at the top or "out" at the bottom.
_End = tuple[str, int, int]


class _Page:
    """The recursion over clusters."""

    def __init__(
        self,
        sizes: Sequence[tuple[float, float]],
        edges: Sequence[tuple[int, int]],
        inside: Sequence[int],
        clusters: Sequence[Cluster],
    ):
        self.sizes, self.edges, self.inside, self.clusters = sizes, edges, inside, clusters
        self.boxes: dict[int, Rect] = {}
        self.frames: dict[int, Rect] = {}
        self.ports: dict[_End, float] = {}  # distance of a port from the middle of its cluster
        self.links: dict[int, dict[tuple[_End, _End], int]] = defaultdict(dict)  # of each level, and an edge
        self.members: dict[int, list[_End]] = defaultdict(list)
        entered: set[int] = set()
        for i, cluster in enumerate(inside):
            around = self.path(cluster)
            for parent, c in pairwise([-1, *around]):
                if c not in entered:  # in the order of the first boxes inside
                    entered.add(c)
                    self.members[parent].append(("cluster", c, 0))
            self.members[cluster].append(("box", i, 0))
        for number, (u, v) in enumerate(edges):
            self.route(number, u, v)

    def path(self, cluster: int) -> list[int]:
        """The clusters from the outermost to this one."""
        found: list[int] = []
        while cluster != -1:
            found.append(cluster)
            cluster = self.clusters[cluster].parent
        return found[::-1]

    def route(self, number: int, u: int, v: int) -> None:
        """Cut an edge into links, each within one level."""
        out, into = self.path(self.inside[u]), self.path(self.inside[v])
        common = 0
        while common < min(len(out), len(into)) and out[common] == into[common]:
            common += 1
        end: _End = ("box", u, u)
        for c in reversed(out[common:]):
            self.links[c].setdefault((end, ("out", 0, u)), number)
            end = ("cluster", c, u)
        level = out[common - 1] if common else -1
        for c in into[common:]:
            self.links[level].setdefault((end, ("cluster", c, u)), number)
            end, level = ("in", 0, u), c
        self.links[level].setdefault((end, ("box", v, v)), number)

    def placement(self) -> Placement:
        curves, width, height = self.level(-1)
        boxes = [self.boxes[i] for i in range(len(self.sizes))]
        return Placement(boxes, [self.frames[c] for c in range(len(self.clusters))], curves, width, height)

    def level(self, cluster: int) -> tuple[list[Curve], float, float]:
        """Lay out what is directly inside a cluster (-1: the page), with its corner at (0, 0)."""
        members = self.members[cluster]
        inner = {c: self.level(c) for what, c, _ in members if what == "cluster"}
        links = self.links[cluster]
        ends = [end for pair in links for end in pair]
        ins = list(dict.fromkeys(end for end in ends if end[0] == "in"))
        outs = list(dict.fromkeys(end for end in ends if end[0] == "out"))
        label = self.clusters[cluster].label if cluster != -1 else (0.0, 0.0)
        items = [*members, *ins, *outs]
        where = {self.item(end): i for i, end in enumerate(items)}
        size = {"box": lambda i: self.sizes[i], "cluster": lambda c: inner[c][1:]}
        size |= {"in": lambda _: (0.0, label[1]), "out": lambda _: (0.0, 0.0)}
        level = _Level([size[what](i) for what, i, _ in items], len(members), len(ins))
        for first, last in links:
            level.link(
                where[self.item(first)],
                self.ports.get(("out", *first[1:]), 0.0) if first[0] == "cluster" else 0.0,
                where[self.item(last)],
                self.ports.get(("in", *last[1:]), 0.0) if last[0] == "cluster" else 0.0,
            )
        level.solve()

        left, top, width, height = 0.0, 0.0, level.width, level.height
        if cluster != -1:  # room for the label, which stands to the left of the ports
            first_port = min((level.x[where[self.item(end)]] for end in ins), default=math.inf)
            left = INSIDE + max(0.0, label[0] + 8.0 - first_port)
            top = 0.0 if ins else label[1] + PORT / 2
            width = max(width + 2 * left, label[0] + 2 * INSIDE)
            height += top + (0.0 if outs else INSIDE)
            for end in (*ins, *outs):
                self.ports[end[0], cluster, end[2]] = left + level.x[where[self.item(end)]] - width / 2
        curves = [
            Curve(number, [(x + left, y + top) for x, y in points], last[0] == "box")
            for (_, last), number, points in zip(links, links.values(), level.curves(), strict=True)
        ]
        for (what, i, _), x, y, (w, h) in zip(items, level.x, level.y, level.sizes, strict=False):
            corner = (x - w / 2 + left, y - h / 2 + top)
            if what == "box":
                self.boxes[i] = Rect(*corner, w, h)
            elif what == "cluster":
                self.frames[i] = Rect(*corner, w, h)
                curves += self.move(i, inner[i][0], *corner)
        return curves, width, height

    def item(self, end: _End) -> tuple[str, int]:
        """A cluster is one item, a port is one for each source."""
        return (end[0], end[2] if end[0] in ("in", "out") else end[1])

    def move(self, cluster: int, curves: list[Curve], dx: float, dy: float) -> list[Curve]:
        """Shift everything inside a cluster."""
        for what, i, _ in self.members[cluster]:
            found = self.boxes if what == "box" else self.frames
            found[i] = found[i]._replace(x=found[i].x + dx, y=found[i].y + dy)
            if what == "cluster":
                self.move(i, [], dx, dy)
        return [Curve(e, [(x + dx, y + dy) for x, y in points], arrow) for e, points, arrow in curves]


# ---- one level
class _Level:
    """Boxes and links without clusters. The first `free` boxes are followed by ports, `top` of them at the top."""

    def __init__(self, sizes: Sequence[tuple[float, float]], free: int, top: int):
        self.sizes = list(sizes)  # virtual boxes are added at the end
        self.count = len(self.sizes)
        self.free, self.top = free, top
        self.links: list[tuple[int, float, int, float]] = []  # box, distance from its middle; twice

    def link(self, source: int, out: float, target: int, into: float) -> None:
        self.links.append((source, out, target, into))

    def solve(self) -> None:
        self.rank = self.ranks()
        self.segments()
        self.order = self.ordered()
        self.align()
        self.stack()

    # ---- 1. ranks
    def ranks(self) -> list[int]:
        n = self.count
        after: list[list[int]] = [[] for _ in range(n)]
        before: list[list[int]] = [[] for _ in range(n)]
        for source, _, target, _ in self.links:
            after[source].append(target)
            before[target].append(source)
        rank = [1 if self.top and i < self.free else 0 for i in range(n)]
        waiting = [len(b) for b in before]
        sequence = [i for i in range(n) if not waiting[i]]
        for u in sequence:
            for v in after[u]:
                rank[v] = max(rank[v], rank[u] + 1)
                waiting[v] -= 1
                if not waiting[v]:
                    sequence.append(v)
        if len(sequence) < n:
            raise ValueError("the graph has a cycle, so it has no layered drawing")
        last = max(rank, default=0) + (0 if self.free + self.top == n else 1)
        for i in range(self.free + self.top, n):
            rank[i] = last
        for u in reversed(sequence):  # what has more edges below than above moves down to them, which shortens them
            if u < self.free and len(after[u]) > len(before[u]):
                rank[u] = min(rank[v] for v in after[u]) - 1
        used = {r: i for i, r in enumerate(sorted(set(rank)))}
        return [used[r] for r in rank]

    # ---- 2. virtual boxes
    def segments(self) -> None:
        """Links as segments from rank to rank: above[v] and below[u] are lists of (other box, distance there, here)."""
        ends: dict[tuple[int, float], int] = {}  # the last rank that an outlet reaches
        for source, out, target, _ in self.links:
            ends[source, out] = max(ends.get((source, out), 0), self.rank[target])
        self.chains: dict[tuple[int, float], list[int]] = {}
        for (source, out), last in ends.items():
            chain = []
            for rank in range(self.rank[source] + 1, last):
                chain.append(len(self.sizes))
                self.sizes.append((0.0, 0.0))
                self.rank.append(rank)
            self.chains[source, out] = chain
        self.above: list[list[tuple[int, float, float]]] = [[] for _ in self.sizes]
        self.below: list[list[tuple[int, float, float]]] = [[] for _ in self.sizes]
        for (source, out), chain in self.chains.items():
            for a, b in pairwise([source, *chain]):
                self.segment(a, out if a == source else 0.0, b, 0.0)
        for source, out, target, into in self.links:
            a = self.outlet(source, out, target)
            self.segment(a, out if a == source else 0.0, target, into)

    def segment(self, a: int, out: float, b: int, into: float) -> None:
        self.below[a].append((b, into, out))
        self.above[b].append((a, out, into))

    def outlet(self, source: int, out: float, target: int) -> int:
        """The box in the rank above `target` from which a link comes: its source or a virtual one."""
        steps = self.rank[target] - self.rank[source] - 1
        return self.chains[source, out][steps - 1] if steps else source

    # ---- 3. order
    def ordered(self) -> list[list[int]]:
        order: list[list[int]] = [[] for _ in range(max(self.rank, default=-1) + 1)]
        seen: set[int] = set()
        for start in sorted(range(self.count), key=lambda i: (bool(self.above[i]), i)):
            todo = [start]
            while todo:  # depth first, so that branches start side by side
                u = todo.pop()
                if u not in seen:
                    seen.add(u)
                    order[self.rank[u]].append(u)
                    todo.extend(b for b, _, _ in reversed(self.below[u]))
        best, fewest = order, self.crossings(order)
        for sweep in range(SWEEPS):
            if not fewest:
                break
            order = self.swept(order, down=sweep % 2 == 0)
            crossings = self.crossings(order)
            if crossings < fewest:
                best, fewest = order, crossings
        return best

    def swept(self, order: list[list[int]], down: bool) -> list[list[int]]:
        """Every rank sorted by the barycentres of its boxes in the rank before it."""
        order = [list(rank) for rank in order]
        near = self.above if down else self.below
        ranks = range(1, len(order)) if down else range(len(order) - 2, -1, -1)
        for r in ranks:
            at = self.positions(order[r - 1 if down else r + 1])
            centre = {}
            for i, u in enumerate(order[r]):
                found = [at[v] + self.share(v, there) for v, there, _ in near[u]]
                centre[u] = sum(found) / len(found) if found else float(i)
            order[r].sort(key=centre.__getitem__)
        return order

    def positions(self, rank: list[int]) -> dict[int, float]:
        return {u: float(i) for i, u in enumerate(rank)}

    def share(self, u: int, distance: float) -> float:
        """A port's distance from the middle of its box, where the distance to the next box is 1."""
        return distance / (self.sizes[u][0] + 1.0)

    def crossings(self, order: list[list[int]]) -> int:
        count = 0
        for upper, lower in pairwise(order):
            at = self.positions(lower)
            lines = []
            for i, u in enumerate(upper):
                for v, there, here in self.below[u]:
                    lines.append((i + self.share(u, here), at[v] + self.share(v, there)))
            seen: list[float] = []
            for _, end in sorted(lines):
                count += len(seen) - bisect_right(seen, end)
                insort(seen, end)
        return count

    # ---- 4. coordinates
    def apart(self, u: int, v: int) -> float:
        """The distance that the middles of two neighbours need."""
        real = u < self.free and v < self.free
        return (self.sizes[u][0] + self.sizes[v][0]) / 2 + (BETWEEN if real else BESIDE)

    def align(self) -> None:
        self.x = [0.0] * len(self.sizes)
        for rank in self.order:
            for u, v in pairwise(rank):
                self.x[v] = self.x[u] + self.apart(u, v)
        both = [a + b for a, b in zip(self.above, self.below, strict=True)]
        for sweep in range(SWEEPS):
            near = (self.above, self.below)[sweep % 2]
            for rank in self.order if sweep % 2 == 0 else reversed(self.order):
                self.pull(rank, near)
        for rank in self.order:
            self.pull(rank, both)
        spines = self.spines()
        self.straighten(spines)
        self.straighten(spines[::-1])  # what the others have made room for
        widths = [size[0] / 2 for size in self.sizes]
        left = min((x - w for x, w in zip(self.x, widths, strict=True)), default=0.0)
        self.x = [x - left for x in self.x]
        self.width = max((x + w for x, w in zip(self.x, widths, strict=True)), default=0.0)

    def pull(self, rank: list[int], near: list[list[tuple[int, float, float]]]) -> None:
        """Move the boxes of a rank as near to the medians of their neighbours as their distances allow.

        In the least squares' sense: an isotonic regression, solved by pooling adjacent violators.
        """
        blocks: list[list[float]] = []  # weighted sum of positions, weight, number of boxes
        offset, offsets = 0.0, []
        for i, u in enumerate(rank):
            offset += self.apart(rank[i - 1], u) if i else 0.0
            offsets.append(offset)
            places = [self.x[v] + there - here for v, there, here in near[u]]
            weight = 1.0 if places else 0.01
            wanted = median(places) if places else self.x[u]
            blocks.append([weight * (wanted - offset), weight, 1])
            while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
                total, mass, number = blocks.pop()
                blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + mass, blocks[-1][2] + number]
        i = 0
        for total, mass, number in blocks:
            for _ in range(int(number)):
                self.x[rank[i]] = total / mass + offsets[i]
                i += 1

    def straighten(self, spines: list[list[tuple[int, float]]]) -> None:
        """Make spines vertical, as far as there is room."""
        place = {u: (rank, i) for rank in self.order for i, u in enumerate(rank)}
        for spine in spines:
            while spine:
                low, high, run = -math.inf, math.inf, 0  # limits of the first one's x; how many fit
                for u, shift in spine:
                    rank, k = place[u]
                    left = self.x[rank[k - 1]] + self.apart(rank[k - 1], u) if k else -math.inf
                    right = self.x[rank[k + 1]] - self.apart(u, rank[k + 1]) if k + 1 < len(rank) else math.inf
                    if run and max(low, left - shift) > min(high, right - shift) + 1e-6:  # neighbours may touch
                        break
                    low, high, run = max(low, left - shift), min(high, right - shift), run + 1
                wanted = median(self.x[u] - shift for u, shift in spine[:run])
                for u, shift in spine[:run]:
                    self.x[u] = min(max(wanted, low), high) + shift
                spine = spine[run:]

    def spines(self) -> list[list[tuple[int, float]]]:
        """What leads straight on, from top to bottom: the virtual boxes of an edge, and boxes of which each is the only
        neighbour of the next. Each with its distance from the first one's x if the spine is vertical."""
        follows: dict[int, tuple[int, float]] = {}
        for chain in self.chains.values():
            follows.update((a, (b, 0.0)) for a, b in pairwise(chain))
        for u, below in enumerate(self.below):
            if u not in follows and len(below) == 1:
                v, there, here = below[0]
                if len(self.above[v]) == 1:
                    follows[u] = (v, here - there)
        inner = {v for v, _ in follows.values()}
        spines = []
        for u in follows:
            if u not in inner:
                spine = [(u, 0.0)]
                while spine[-1][0] in follows:
                    v, step = follows[spine[-1][0]]
                    spine.append((v, spine[-1][1] + step))
                spines.append(spine)
        return sorted(spines, key=len, reverse=True)

    def stack(self) -> None:
        """Ranks from top to bottom, their boxes centred."""
        self.y = [0.0] * len(self.sizes)
        self.tops: list[float] = []  # of the ranks
        self.bottoms: list[float] = []
        y = 0.0
        for r, rank in enumerate(self.order):
            height = max(self.sizes[u][1] for u in rank)
            self.tops.append(y)
            self.bottoms.append(y + height)
            for u in rank:
                self.y[u] = y + height / 2
            far = max((abs(self.x[u] + here - self.x[v] - there) for u in rank for v, there, here in self.below[u]),
                      default=0.0)  # fmt: skip
            ports = any(self.is_port(u) for u in (*rank, *(self.order[r + 1] if r + 1 < len(self.order) else ())))
            y += height + (PORT if ports else BELOW) + min(far / 6, 40.0)
        self.height = self.bottoms[-1] if self.bottoms else 0.0

    def is_port(self, u: int) -> bool:
        return self.free <= u < self.count

    # ---- curves
    def curves(self) -> list[list[Point]]:
        """The points of each link. What a link shares with a longer one of the same outlet is drawn once, with that."""
        longest: dict[tuple[int, float], int] = {}
        for i, (source, out, target, _) in enumerate(self.links):
            known = longest.setdefault((source, out), i)
            if self.rank[target] > self.rank[self.links[known][2]]:
                longest[source, out] = i
        found = []
        for i, (source, out, target, into) in enumerate(self.links):
            steps = self.rank[target] - self.rank[source] - 1
            chain = self.chains[source, out][:steps]
            points: list[Point] = []
            if longest[source, out] == i or not chain:
                half = self.sizes[source][1] / 2
                x = self.x[source] + out
                points = [(x, self.y[source] + half), (x, self.bottoms[self.rank[source]])]
                if self.free <= source:  # a port: from the border on
                    points[0] = (x, self.tops[self.rank[source]])
                for u in chain:
                    points += [(self.x[u], self.tops[self.rank[u]]), (self.x[u], self.bottoms[self.rank[u]])]
            else:
                u = chain[-1]
                points = [(self.x[u], self.bottoms[self.rank[u]])]
            x, half = self.x[target] + into, self.sizes[target][1] / 2
            points += [(x, self.tops[self.rank[target]]), (x, self.y[target] - half)]
            found.append([p for k, p in enumerate(points) if k == 0 or math.dist(p, points[k - 1]) > 1e-6])
        return found
