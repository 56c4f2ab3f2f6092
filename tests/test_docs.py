"""Every Python block of the documentation runs, and prints what the page says it prints.

The ```python blocks of a page run in order, in one namespace, in a process of their own. A ```text block behind one
holds what it prints; without it the output is not looked at.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\s*^```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")  # to another file of the repository


class Block(NamedTuple):
    line: int  # of its first line of code, from 1
    code: str
    expected: str | None


def blocks(text: str) -> list[Block]:
    return [Block(text.count("\n", 0, m.start(1)) + 1, m[1], m[2]) for m in BLOCK.finditer(text)]


def run_page(page: Path) -> None:
    """Run the blocks of a page. Raises what they raise, or AssertionError where they print something else."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, code, expected in blocks(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # blank lines in front give tracebacks the line numbers of the page
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        if expected is not None and printed.getvalue() != expected:
            raise AssertionError(f"{page}:{line} printed\n{printed.getvalue()}instead of\n{expected}")


def pages(wanted: Callable[[str], Any]) -> pytest.MarkDecorator:
    chosen = [p for p in PAGES if wanted(p.read_text())]
    return pytest.mark.parametrize("page", chosen, ids=[p.relative_to(ROOT).as_posix() for p in chosen])


@pages(blocks)
def test_page_runs(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, page],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pages(LINK.search)
def test_links_between_files_lead_somewhere(page):
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


def test_blocks_are_found_and_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text\n\n```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n")
    assert blocks(page.read_text()) == [Block(4, "x = 1\n", None), Block(8, "print(x + 1)\n", "2\n")]
    run_page(page)
    page.write_text("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    with pytest.raises(AssertionError, match="printed\n1\ninstead of\n2"):
        run_page(page)


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
