"""The report of `minidl gradcheck` as one HTML file that needs nothing else."""

from __future__ import annotations

from datetime import datetime
from html import escape

from .. import __version__
from .command import cells, headings, legend, summary
from .rows import Result

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.ok { color: #18794e; } .failed { color: #c0202f; font-weight: bold; }
.constant, .not-checked, .skipped { color: #777; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; }
"""


def page(results: list[Result], order: int, mode: str, command: str = "minidl gradcheck") -> str:
    """The whole page: the table, what was skipped, and every failure in detail. command: what makes it again."""
    made = f"minidl {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    verdicts = "".join(f"<li>{escape(line)}</li>" for line in legend(results))
    head = "".join(f"<th>{escape(h)}</th>" for h in headings(order))
    body = "".join(_row(result, order) for result in results)
    failures = "".join(
        f"<section><h3>{escape(result.name)} <code>{escape(case)}</code></h3><pre>{escape(wrong)}</pre></section>"
        for result in results
        for case, wrong in result.failures
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>minidl gradcheck</title>'
        f"<style>{STYLE}</style></head><body>"
        f"<h1>Gradients against finite differences</h1><p>{escape(mode)}</p><p>{escape(summary(results))}</p>"
        f"<p>{escape(made)}: <code>{escape(command)}</code></p>"
        "<p>Errors are the largest |analytic - numeric| / max(1, |analytic|, |numeric|) over all elements of all cases."
        "</p>"
        + (f"<ul>{verdicts}</ul>" if verdicts else "")
        + (f'<h2 id="failures">Failures</h2>{failures}' if failures else "")
        + f"<h2>All rows</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></body></html>\n"
    )


def _row(result: Result, order: int) -> str:
    words = cells(result, order)
    plain = "".join(
        f'<td class="number">{escape(w)}</td>' if i > 1 else f"<td>{escape(w)}</td>" for i, w in enumerate(words[:-1])
    )
    title = f' title="{escape(result.reason)}"' if result.reason else ""
    return f'<tr>{plain}<td class="{result.verdict.replace(" ", "-")}"{title}>{escape(words[-1])}</td></tr>'
