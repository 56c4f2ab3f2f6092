"""The report of a run: one HTML page that holds everything it shows, to be kept, sent and printed."""

from __future__ import annotations

import io
import math
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np

from .. import __version__
from ..data.extras import require
from .files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --card: #f4f4f1; --ink: #1d1f21; --soft: #5c6166; --line: #e2e2dd;
  --accent: #1b62a0; --good: #18714a; --bad: #b3400a; --warm: #fdf1e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --card: #202327; --ink: #e6e6e3; --soft: #a0a5ab; --line: #33373c;
    --accent: #7db8ee; --good: #6fcf9f; --bad: #f3a06b; --warm: #33271a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1.5rem; }
body {
  margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial,
    sans-serif;
}
header { margin-bottom: 2.5rem; }
h1, h2 { line-height: 1.2; text-wrap: balance; letter-spacing: -.012em; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.7rem, 1.2rem + 2vw, 2.5rem); font-weight: 700; margin: 0; }
h2 { font-size: 1.4rem; font-weight: 650; margin: 0 0 1.1rem; }
.subtitle { margin: .6rem 0 0; color: var(--soft); font-size: 1.1rem; line-height: 1.45; max-width: 46rem; }
p, aside { max-width: 44rem; overflow-wrap: anywhere; }
p { margin: 0 0 1rem; text-wrap: pretty; }
nav { font-size: .9rem; margin-bottom: 2.5rem; }
nav ol { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--line); }
nav li { border-bottom: 1px solid var(--line); }
nav a { display: block; padding: .45rem 0; color: var(--soft); text-decoration: none; overflow-wrap: anywhere; }
nav a:hover { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 2px; }
main { min-width: 0; }
section { padding-top: 2rem; margin-top: 2.75rem; border-top: 1px solid var(--line); }
main > section:first-child { margin-top: 0; padding-top: 0; border-top: 0; }
figure { margin: 1.75rem 0; }
figcaption { margin: .6rem 0 0; color: var(--soft); font-size: .9rem; line-height: 1.5; max-width: 44rem; }
figure.over figcaption { margin: 0 0 .5rem; }
.picture { width: fit-content; max-width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem; line-height: 0; overflow: hidden; }
.picture img { max-width: 100%; height: auto; }
@media (min-width: 44rem) { img.pixels { image-rendering: pixelated; } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: .86rem; vertical-align: bottom; border-bottom: 1.5px solid
  var(--soft); }
th, td { padding: .42rem 1.1rem .42rem 0; text-align: left; }
th + th, td + td { padding-left: .4rem; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
td { max-width: 34rem; overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; }
.yes { color: var(--good); white-space: nowrap; }
.no { color: var(--bad); white-space: nowrap; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); margin: 1.25rem 0 1.75rem;
  font-size: .94rem; line-height: 1.45; max-width: 52rem; }
dt, dd { margin: 0; padding: .42rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
dt { color: var(--soft); padding-right: 2rem; }
pre { margin: 0; padding: .85rem 1rem; background: var(--card); border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .88rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
aside { margin: 1.25rem 0; padding: .75rem 1rem; background: var(--card); border-left: 3px solid var(--accent);
  border-radius: 0 8px 8px 0; }
aside.warning { background: var(--warm); border-left-color: var(--bad); }
aside strong { margin-right: .35rem; color: var(--accent); }
aside.warning strong { color: var(--bad); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
@media (min-width: 64rem) {
  .with-contents { display: grid; grid-template-columns: 11rem minmax(0, 1fr); column-gap: 3.5rem; }
  nav { position: sticky; top: 2rem; align-self: start; max-height: calc(100vh - 4rem); overflow-y: auto; }
}
@media (max-width: 34rem) {
  dl { grid-template-columns: minmax(0, 1fr); }
  dt { border: 0; padding-bottom: 0; font-size: .85rem; }
  dd { padding-top: 0; }
  .picture { padding: .3rem; }
}
@media print {
  :root {
    color-scheme: light; --paper: #fff; --card: #f4f4f1; --ink: #000; --soft: #444; --line: #ccc; --warm: #fdf1e3;
    --accent: #1b62a0; --good: #18714a; --bad: #b3400a;
  }
  @page { margin: 18mm 16mm; }
  body { font-size: 10pt; padding: 0; max-width: none; }
  .with-contents { display: block; }
  nav { position: static; max-height: none; }
  h2 { break-after: avoid; }
  figure, aside, tr, dt, dd { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  .picture img { max-height: 200mm; width: auto; }
}
"""
# Nothing may be loaded but what the page itself holds, no script may run, and the style is this one.
POLICY = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'"
)
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}  # Pillow's names
CSS_DPI = 96
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # not in HTML, apart from tab and newline
NUMBER = ' class="number"'
DASH = "–"


class Report:
    """One HTML page that holds everything it shows: pictures are part of the file, nothing is loaded from elsewhere.

    Parts appear in the order in which they are added; `section` begins a section, which the page's contents list. All
    text is plain: what would be markup is escaped. It is laid out for screens of any width, in light and dark, and for
    paper.

        report = Report("Digits, drawn by a VAE", "seed 0, 100 epochs")
        report.section("Result")
        report.table(["split", "ELBO"], [["test", -24.7]])
        report.write("report.html")
    """

    def __init__(self, title: str, subtitle: str = ""):
        self.title = _text(title).strip()
        self.subtitle = _text(subtitle)
        if not self.title:
            raise ValueError("title is empty: a page needs one")
        self._sections: dict[str, str] = {}  # id -> heading
        self._parts: list[list[str]] = [[]]  # of what comes before the first section, and of each section

    def section(self, title: str) -> None:
        """Begin a section: a heading, and an entry in the page's contents."""
        heading = _text(title).strip()
        if not heading:
            raise ValueError("title is empty: a section needs one")
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        name, count = slug, 1
        while name in self._sections:
            count += 1
            name = f"{slug}-{count}"
        self._sections[name] = heading
        self._parts.append([])

    def text(self, paragraph: str) -> None:
        """A paragraph; blank lines separate several."""
        for part in re.split(r"\n\s*\n", paragraph.strip()):
            self._add(f"<p>{_text(part)}</p>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
        """A table: columns of numbers are aligned on the right and have as many decimals as tell their values apart.

        True and False become a tick and a cross with "yes" and "no", None becomes a dash. Raises ValueError if a row
        is longer or shorter than `columns`.
        """
        rows = [list(row) for row in rows]
        for i, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"row {i} has {len(row)} cells and the table {len(columns)} columns")
        written = []  # columns of (cell, is a number)
        for values in zip(*rows, strict=True):
            texts = _number_texts([v for v in values if _is_number(v)])
            written.append([(next(texts), True) if _is_number(v) else (_cell(v), False) for v in values])
        aligned = [
            any(number for _, number in column) and all(number or cell == DASH for cell, number in column)
            for column in written
        ] or [False] * len(columns)
        head = "".join(
            f'<th scope="col"{NUMBER if right else ""}>{_text(name)}</th>'
            for name, right in zip(columns, aligned, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f"<td{NUMBER if right else ''}>{column[i][0]}</td>"
                for column, right in zip(written, aligned, strict=True)
            )
            + "</tr>\n"
            for i in range(len(rows))
        )
        name = _text(caption) or "table"
        # a table wider than the screen is scrolled, also with the keyboard
        self._figure(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>",
            caption,
            "over",
        )

    def facts(self, pairs: Mapping[str, Any]) -> None:
        """A list of names and values: a configuration, the machine. Several values are joined by commas."""
        if pairs:
            items = "".join(f"<dt>{_text(name)}</dt><dd>{_value(value)}</dd>\n" for name, value in pairs.items())
            self._add(f"<dl>\n{items}</dl>")

    def picture(self, image: Figure | bytes | str | Path, alt: str, caption: str = "") -> None:
        """A picture. alt: what it shows, in words, for those who do not see it.

        image: the bytes of a PNG, JPEG, GIF, WebP or SVG file, a Path to one, SVG as text, or a matplotlib Figure,
        which becomes a PNG. Raises ValueError if `alt` is empty and for a file of another kind or a damaged one.
        """
        words = _text(alt).strip()
        if not words:
            raise ValueError("alt is empty: say in words what the picture shows")
        kind, content, attributes = _picture(image)
        source = f"data:{kind};base64,{b64encode(content).decode()}"
        self._figure(f'<div class="picture"><img src="{source}" alt="{words}"{attributes}></div>', caption)

    def code(self, text: str, caption: str = "") -> None:
        """Text in a typewriter face, as it is: a command, a summary."""
        self._figure(f"<pre><code>{_text(text)}</code></pre>", caption, "over")

    def note(self, text: str, kind: Literal["info", "warning"] = "info") -> None:
        """A remark set apart; a warning says so in words as well as in colour."""
        names = {"info": "Note", "warning": "Warning"}
        if kind not in names:
            raise ValueError(f"kind is {kind!r}: it must be 'info' or 'warning'")
        self._add(f'<aside class="{kind}" role="note"><strong>{names[kind]}</strong> {_text(text)}</aside>')

    def html(self) -> str:
        """The whole page. The same parts give the same page, to the letter."""
        before, *parts = ("\n".join(part) for part in self._parts)
        entries = "".join(f'<li><a href="#{name}">{title}</a></li>\n' for name, title in self._sections.items())
        contents = f'<nav aria-label="Contents"><ol>\n{entries}</ol></nav>\n' if entries else ""
        body = "\n".join(
            f'<section id="{name}">\n<h2>{title}</h2>\n{part}\n</section>'
            for (name, title), part in zip(self._sections.items(), parts, strict=True)
        )
        layout = ' class="with-contents"' if contents else ""
        subtitle = f'<p class="subtitle">{self.subtitle}</p>\n' if self.subtitle else ""
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="minidl {__version__}">\n'
            f'<link rel="icon" href="data:,">\n'  # else a browser asks a server for one
            f"<title>{self.title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f"<header>\n<h1>{self.title}</h1>\n{subtitle}</header>\n"
            f"<div{layout}>\n{contents}<main>\n{before}\n{body}\n</main>\n</div>\n"
            f"<footer>Made with minidl {__version__}. This page holds all it shows; nothing is loaded from elsewhere."
            f"</footer>\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike) -> None:
        """Write the page, atomically. Raises RunFolderError that says why it cannot be written."""
        write_atomic(path, self.html())

    def _add(self, part: str) -> None:
        self._parts[-1].append(part)

    def _figure(self, content: str, caption: str, kind: str = "") -> None:
        """Content with its caption: below, or above if kind is "over"."""
        words = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
        parts = (words, content) if kind == "over" else (content, words)
        self._add(f"<figure{f' class={kind}' if kind else ''}>{''.join(parts)}</figure>")


def _text(value: Any) -> str:
    """Anything as HTML text. What UTF-8 or HTML cannot hold, such as parts of odd file names, becomes "?"."""
    plain = str(value).replace("\r\n", "\n").encode("utf-8", "replace").decode()
    return escape(CONTROL.sub("?", plain))


def _cell(value: Any) -> str:
    """What stands in a table and is no number: there True and False are verdicts, good and bad."""
    if isinstance(value, (bool, np.bool_)):
        return '<span class="yes">✓ yes</span>' if value else '<span class="no">✗ no</span>'
    return _value(value)


def _value(value: Any) -> str:
    """A fact as HTML."""
    if value is None:
        return DASH
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return _minus(str(int(value)))  # no commas: it may be a seed
    if _is_number(value):
        return _minus(f"{float(value):.6g}")
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(name)}: {_value(v)}" for name, v in value.items()) or DASH
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(_value(v) for v in value) or DASH
    return _text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _minus(number: str) -> str:
    """A number with a true minus sign in front."""
    return f"−{number[1:]}" if number.startswith("-") else number


def _number_texts(values: Sequence[Any]) -> Iterator[str]:
    """A column's numbers: all with the same decimals if they are of similar size, else each with four digits."""
    decimals = _decimals([abs(float(v)) for v in values if not isinstance(v, Integral) and math.isfinite(v) and v])
    for value in values:
        if isinstance(value, Integral):
            yield _minus(f"{int(value):,}")
        elif not math.isfinite(value):
            yield _minus("NaN" if math.isnan(value) else f"{float(value)}".replace("inf", "∞"))
        elif decimals is None:
            yield _minus(f"{float(value):.4g}")
        else:
            yield _minus(f"{float(value):,.{decimals}f}")


def _decimals(sizes: Sequence[float]) -> int | None:
    """Decimals that show four digits of the largest and three of the smallest number, without zeros that all end in.

    None: no such number of decimals is reasonable.
    """
    if not sizes:
        return 0
    smallest, largest = min(sizes), max(sizes)
    if smallest < 1e-4 or largest >= 1e7 or largest > 1e4 * smallest:
        return None
    decimals = max(3 - math.floor(math.log10(largest)), 2 - math.floor(math.log10(smallest)), 0)
    while decimals and all(f"{size:.{decimals}f}".endswith("0") for size in sizes):
        decimals -= 1
    return decimals


def _picture(image: Any) -> tuple[str, bytes, str]:
    """Media type, content and further attributes of an image, after looking at it."""
    from . import pictures

    if hasattr(image, "savefig"):
        content, name = pictures.png(image), "the figure"
    elif isinstance(image, Path):
        content, name = image.read_bytes(), str(image)
    elif isinstance(image, bytes):
        content, name = image, "the image"
    elif isinstance(image, str) and image.lstrip().startswith("<"):
        content, name = image.encode(), "the image"
    else:
        raise TypeError(
            f"image is {image!r:.80}: it must be a matplotlib Figure, a Path, the bytes of an image, or SVG text"
        )
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "image/svg+xml", _checked_svg(content, name), ""
    return _bitmap(content, name)


def _checked_svg(content: bytes, name: str) -> bytes:
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"{name} is damaged SVG: {error}") from None
    if root.tag != "{http://www.w3.org/2000/svg}svg":
        raise ValueError(f'{name} is no SVG that a page can show: its root is {root.tag}, without xmlns="…/2000/svg"')
    return content


def _bitmap(content: bytes, name: str) -> tuple[str, bytes, str]:
    Image = require("PIL.Image", "showing pictures in a report")
    try:
        with Image.open(io.BytesIO(content), formats=list(TYPES)) as opened:
            opened.load()
            kind, (width, height), dpi = opened.format, opened.size, opened.info.get("dpi", (CSS_DPI,))[0]
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name} is no PNG, JPEG, GIF, WebP or SVG: it begins with {content[:12]!r}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    # a picture of 150 dots per inch is shown in the size it was drawn for, and sharper on a fine screen
    shrink = min(1.0, CSS_DPI / float(dpi)) if dpi > 0 else 1.0
    size = f' width="{round(width * shrink)}" height="{round(height * shrink)}"'
    pixels = ' class="pixels"' if kind == "GIF" or max(width, height) <= 256 else ""
    return TYPES[kind], content, f"{size}{pixels}"
