"""The report as HTML: whole, escaped, with nothing from outside; and what it says of numbers and of the machine."""

import base64
import hashlib
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from minidl.train import machine as machine_module
from minidl.train.animation import images_gif
from minidl.train.errors import RunFolderError
from minidl.train.machine import machine
from minidl.train.pictures import image_grid
from minidl.train.report import Report

VOID = {"meta", "img", "link", "br", "hr"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><rect width="2" height="1" fill="teal"/></svg>'
NASTY = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """What a page holds. Fails for tags that are not closed, or closed in another order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.ids, self.links, self.outside, self.policy = [], [], [], [], [], [], ""
        self.words = {}
        self.rows, self.classes = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), "an attribute is given twice"
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.classes.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.classes[-1].append(attributes.get("class", ""))
        if tag == "img":
            self.images.append(attributes)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name, value in attrs:
            if name == "href" and value.startswith("#"):
                self.links.append(value[1:])
            elif name in ("src", "href", "srcset", "data", "action", "poster") and not value.startswith("data:"):
                self.outside.append(value)
            assert not name.startswith("on") and name != "style"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
            if self.open[-1] in ("td", "th") or self.open[-2:-1] == ["td"]:
                self.rows[-1][-1] += data


def decoded(source):
    kind, content = re.fullmatch(r"data:([\w/+]+);base64,(.+)", source).groups()
    return kind, base64.b64decode(content, validate=True)


def encoded(kind, size=(5, 4), **options):
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with one of everything, as text."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "a.jpg").write_bytes(encoded("JPEG"))
    report = Report(NASTY, f"below: {NASTY}")
    report.text("before the sections")
    for title in ("Results & more", "Results & more", "–"):
        report.section(title)
        report.text(f"one {NASTY}\n\ntwo")
    report.table(["split", "accuracy"], [["train", 0.99], [NASTY, 0.8]], NASTY)
    report.facts({NASTY: NASTY, "seed": 3})
    report.code(f"minidl train --out '{NASTY}'\n\n  indented", NASTY)
    report.note(NASTY)
    report.note("stopped", "warning")
    report.picture(image_grid(np.random.default_rng(0).random((3, 8, 8)), "Noise"), NASTY, NASTY)
    for image in (encoded("PNG"), folder / "a.jpg", images_gif(np.eye(8)[:, None] * np.ones((8, 1))), SVG):
        report.picture(image, "a picture")
    report.picture(encoded("WEBP"), "a picture")
    return report.html()


def test_the_page_is_whole_and_holds_all_it_shows(full):
    page = Page(full)
    assert full.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.outside == []
    assert "http:" not in full and "https:" not in full and "url(" not in full and "@import" not in full
    assert page.tags.count("script") == 0 and page.tags.count("h1") == 1
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in full
    assert full.index('<meta charset="utf-8">') < 1024
    kinds = [decoded(image["src"])[0].removeprefix("image/") for image in page.images]
    assert kinds == ["png", "png", "jpeg", "gif", "svg+xml", "webp"]
    for image in page.images:
        assert image["alt"]
        kind, content = decoded(image["src"])
        if kind != "image/svg+xml":
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                assert opened.get_format_mimetype() == kind


def test_the_policy_allows_this_style_and_data_only(full):
    page = Page(full)
    (style,) = page.words["style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["style-src"] == f"'sha256-{digest}'"


def test_text_is_escaped_everywhere(full):
    page = Page(full)
    assert page.words["title"] == [NASTY] and page.words["h1"] == [NASTY]
    assert page.images[0]["alt"] == NASTY
    for tag in ("td", "dt", "dd", "figcaption"):
        assert NASTY in page.words[tag]
    assert NASTY in page.words["aside"][0].strip()
    assert page.words["code"] == [f"minidl train --out '{NASTY}'\n\n  indented"]
    assert "<script" not in full


def test_sections_are_in_the_contents(full):
    page = Page(full)
    assert page.links == page.ids == ["results-more", "results-more-2", "section"]
    assert page.words["h2"] == ["Results & more", "Results & more", "–"]
    assert page.words["a"] == ["Results & more", "Results & more", "–"]
    assert page.words["p"].count("two") == 3
    before = full.index("before the sections")
    assert full.index("<main>") < before < full.index('<section id="results-more">')


def test_a_page_without_sections_has_no_contents():
    page = Page(Report("Empty").html())
    assert "nav" not in page.tags and "section" not in page.tags


def test_the_same_parts_give_the_same_page_and_writing_is_atomic(tmp_path, monkeypatch):
    def make():
        report = Report("Ünïcode ✓")
        report.picture(image_grid(np.eye(4)[None], "x"), "a line")
        return report

    assert make().html() == make().html()
    make().write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == make().html()
    with pytest.raises(RunFolderError, match="cannot be written"):
        make().write(tmp_path / "nowhere" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_utf_8_and_html_cannot_hold():
    report = Report("a\x00b\x1b[0m")
    report.text("name\udcff\r\nnext")
    page = Page(report.html())
    assert page.words["title"] == ["a?b?[0m"]
    assert "name?\nnext" in page.words["p"]
    report.html().encode("utf-8")


def column(values):
    report = Report("x")
    report.table(["name", "value"], [["row", value] for value in values])
    page = Page(report.html())
    return [row[1] for row in page.rows[1:]], {row[1] for row in page.classes[1:]}


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.98765, 0.9], ["0.9877", "0.9000"]),
        ([0.5, 0.25], ["0.50", "0.25"]),
        ([12.3456, 0.12345], ["12.346", "0.123"]),
        ([-1234.567, 3.0], ["−1,234.57", "3.00"]),
        ([1e-5, 2.5], ["1e-05", "2.5"]),
        ([2e9], ["2e+09"]),
        ([0.0, 0.0], ["0", "0"]),
        ([0.001], ["0.001"]),
        ([4000, 12, -3], ["4,000", "12", "−3"]),
        ([np.int64(7), np.float32(0.5)], ["7", "0.5"]),
        ([float("nan"), float("-inf"), 1.5], ["NaN", "−∞", "1.5"]),
        ([1.25, None], ["1.25", "–"]),
    ],
)
def test_numbers_of_a_column(values, texts):
    assert column(values) == (texts, {"number"})


def test_verdicts_and_words_are_no_numbers():
    assert column([True, np.bool_(False)]) == (["✓ yes", "✗ no"], {""})
    assert column(["a", 1.5]) == (["a", "1.5"], {""})
    assert column([None, None]) == (["–", "–"], {""})
    assert column([]) == ([], set())


def test_facts():
    report = Report("x")
    report.facts(
        {
            "lr": 1e-5,
            "seed": 12345678,
            "betas": (0.9, 0.999),
            "clip": None,
            "log": True,
            "more": {"a": -1},
            "p": Path("q"),
        }
    )
    page = Page(report.html())
    assert page.words["dd"] == ["1e-05", "12345678", "0.9, 0.999", "–", "yes", "a: −1", "q"]


def test_sizes_follow_the_dots_per_inch():
    report = Report("x")
    report.picture(encoded("PNG", (300, 150), dpi=(150, 150)), "fine")
    report.picture(encoded("PNG", (300, 150)), "usual")
    sizes = [(image["width"], image["height"]) for image in Page(report.html()).images]
    assert sizes == [("192", "96"), ("300", "150")]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (b"BM not a picture of the web", ValueError, "is no PNG, JPEG, GIF, WebP or SVG: it begins with b'BM"),
        (encoded("PNG")[:45], ValueError, "the image is damaged"),
        (encoded("BMP"), ValueError, "is no PNG, JPEG"),
        (b"", ValueError, "is no PNG"),
        ("<svg><rect></svg>", ValueError, "damaged SVG: mismatched tag"),
        ("<svg/>", ValueError, "its root is svg, without xmlns"),
        ("a.png", TypeError, "image is 'a.png': it must be a matplotlib Figure, a Path"),
        (np.zeros((3, 3)), TypeError, "it must be a matplotlib Figure"),
    ],
)
def test_no_picture_is_shown_that_a_browser_could_not_show(image, error, message):
    report = Report("x")
    with pytest.raises(error, match=message):
        report.picture(image, "alt")
    assert Page(report.html()).images == []


def test_what_else_is_refused():
    report = Report("x")
    with pytest.raises(ValueError, match="alt is empty"):
        report.picture(encoded("PNG"), " ")
    with pytest.raises(ValueError, match="title is empty: a page"):
        Report("")
    with pytest.raises(ValueError, match="title is empty: a section"):
        report.section(" ")
    with pytest.raises(ValueError, match="row 1 has 1 cells and the table 2 columns"):
        report.table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="kind is 'error': it must be 'info' or 'warning'"):
        report.note("x", "error")


def test_machine():
    facts = machine()
    assert all(isinstance(value, str) and value for value in facts.values())
    assert list(facts)[:4] == ["processor", "cores", "memory", "operating system"]
    assert np.__version__ in facts["NumPy"] and "BLAS" in facts["NumPy"]
    assert sys.version.split()[0] in facts["Python"]
    assert re.fullmatch(r"\d+ usable of \d+", facts["cores"])


def test_machine_knows_the_limit_of_threads():
    from minidl.train.threads import limit_threads

    with limit_threads(1):
        assert machine()["threads"] == "BLAS 1, Numba 1"


def test_machine_without_proc_and_posix(monkeypatch):
    def missing(*_, **__):
        raise OSError("no such file")

    monkeypatch.setattr(machine_module, "Path", lambda path: SimpleNamespace(read_text=missing))
    monkeypatch.setattr(machine_module.platform, "freedesktop_os_release", missing)
    monkeypatch.setattr(machine_module.platform, "processor", lambda: "")
    monkeypatch.setattr(machine_module.platform, "machine", lambda: "pdp11")
    monkeypatch.delattr(machine_module.os, "sysconf")
    facts = machine()
    assert (facts["processor"], facts["memory"]) == ("pdp11", "unknown")
    assert facts["operating system"].endswith("pdp11")


def test_machine_never_imports_cupy(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert "GPU" not in machine()
    assert "cupy" not in sys.modules


def test_machine_names_the_gpu_that_is_in_use(monkeypatch):
    class CUDARuntimeError(RuntimeError):
        pass

    def broken():
        raise CUDARuntimeError("no device")

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: {"name": b"Some GPU", "totalGlobalMem": 8 * 2**30},
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 12040,
    )
    cupy = SimpleNamespace(__version__="14.0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert machine()["GPU"] == "Some GPU, 8.0 GiB, driver for CUDA 13.1, CUDA 12.4, CuPy 14.0"
    runtime.getDevice = broken
    assert machine()["GPU"] == "none that can be used (no device), CuPy 14.0"
