"""Choosing kernels by measuring: what is measured and when, what is dropped, what is remembered. On the stand-in for
CuPy, whose events tell the time of a clock that only made-up kernels move."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl.checking import cuda_host
from minidl.checking.cuda_host import installed
from minidl.kernels import capture, precision
from minidl.kernels.cuda import conv, plan, tuner
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference

sys.path.insert(0, str(Path(__file__).parent))
from test_cuda_host_conv import TINY_TILES, exact, operands, whole

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
G = ConvGeometry.of((2, 8, 9, 8), (16, 8, 3, 3), 1, 1)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A cache of its own, nothing chosen yet, and everything as before afterwards."""
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuner, "_mode", None)
    tuner.forget()
    yield
    tuner.forget()
    precision.set_float32_matmul_precision("highest")


class Clock:
    """Seconds, and CuPy's events that tell them."""

    now = 0.0

    @classmethod
    def install(cls, library, patch) -> None:
        class Event:
            def record(self, stream=None):
                self.at = cls.now

            def synchronize(self):
                assert self.at <= cls.now

        patch.setattr(library.cuda, "Event", Event)
        patch.setattr(library.cuda, "get_elapsed_time", lambda begin, end: 1e3 * (end.at - begin.at))


@pytest.fixture
def cupy(monkeypatch):
    with installed() as library:
        Clock.install(library, monkeypatch)
        yield library


def task(member: str = "conv", dtype: str = "float32", words: str = "highest") -> tuner.Problem:
    return tuner.Problem(member, G, dtype, words, False, False, plan.Device())


class Candidates:
    """Made-up kernels, by name: how long each takes and what it does to the right result."""

    def __init__(self, **kinds: tuple[float, object]):
        self.kinds, self.runs = kinds, dict.fromkeys(kinds, 0)

    def __call__(self, problem: tuner.Problem) -> list[tuner.Candidate]:
        return [tuner.Candidate(name, self._run(name)) for name in self.kinds]

    def _run(self, name: str):
        seconds, spoil = self.kinds[name]

        def run(x, w, b, y):
            self.runs[name] += 1
            Clock.now += seconds
            y[...] = reference.conv(x, w, geometry=G)
            if spoil is not None:
                spoil(y)

        return run


def arrays(cupy, dtype: str = "float32"):
    x, w = (cupy.asarray(a) for a in whole(0, G.x_shape, G.w_shape, dtype=dtype))
    return (x, w, None), cupy.empty(G.y_shape, dtype)


def choose(cupy, candidates, problem=None, device=0):
    given, out = arrays(cupy)
    return tuner.choose(problem or task(), candidates, device, given, out).name


def nothing(y):
    """The result stays right."""


def one_element(y):
    y[1, 3, 4, 5] += 0.5


def fails(y):
    raise RuntimeError("an illegal address")


SLOW, FAST = 0.002, 0.0


# ---- what is measured
def test_the_fastest_is_chosen_and_remembered(cupy):
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW, None), middle=(SLOW / 2, None), fast=(FAST, None))
    assert choose(cupy, candidates) == "fast"
    entry = tuner.remembered(task(), 0)
    assert entry.chosen == "fast" and entry.wrong == {}
    assert next(iter(entry.microseconds)) == "fast" and entry.microseconds["own"] == 1e6 * SLOW
    runs = dict(candidates.runs)
    assert choose(cupy, candidates) == "fast" and candidates.runs == runs
    tuner.forget()  # another process
    assert choose(cupy, candidates) == "fast" and candidates.runs == runs


def test_the_models_choice_stays_unless_another_is_clearly_faster(cupy, monkeypatch):
    tuner.set_autotune(True)
    monkeypatch.setattr(tuner, "GAIN", 0.9)
    assert choose(cupy, Candidates(own=(SLOW, None), other=(SLOW / 2, None))) == "own"


@pytest.mark.parametrize(("spoil", "words"), [
    (one_element, "differs by"),
    (lambda y: y.__setitem__(Ellipsis, 0), "differs by 1 of"),
    (lambda y: y.__setitem__((0, 0), np.nan), "differs by nan"),
    (fails, "RuntimeError: an illegal address"),
])  # fmt: skip
def test_a_wrong_kernel_is_dropped_with_a_warning(cupy, spoil, words):
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW, None), tempting=(FAST, spoil), right=(SLOW / 2, nothing))
    with pytest.warns(RuntimeWarning, match=f"'tempting' is not used for conv of .*{words}"):
        assert choose(cupy, candidates) == "right"
    assert list(tuner.remembered(task(), 0).wrong) == ["tempting"]
    tuner.forget()
    assert choose(cupy, candidates) == "right"  # and is not tried again


def test_an_element_that_nobody_writes_is_seen(cupy):
    tuner.set_autotune(True)

    def partly(x, w, b, y):
        y[:1] = reference.conv(x, w, geometry=G)[:1]

    lazy = [*Candidates(own=(SLOW, None))(task()), tuner.Candidate("lazy", partly)]
    with pytest.warns(RuntimeWarning, match="'lazy' is not used .* differs by nan"):
        assert choose(cupy, lambda problem: lazy) == "own"


@pytest.mark.parametrize(("dtype", "words", "allowed"), [
    ("float32", "highest", 1e-5), ("float32", "tf32x3", 1e-5), ("float32", "high", 5e-4), ("float64", "highest", 5e-13),
    ("float16", "highest", 1e-3),
])  # fmt: skip
def test_what_rounding_may_differ(cupy, dtype, words, allowed):
    """As much as another order of additions gives is allowed, four times the bound is not."""
    problem = task("conv", dtype, words)
    given, out = arrays(cupy, dtype)
    trusted = Candidates(own=(FAST, None))(problem)[0]
    for share, right in ((allowed, True), (4 * tuner.TOLERANCE_OF_TYPES.get(dtype, tuner.TOLERANCE[words]), False)):

        def spoil(y, share=share):
            y[0, 0, 0, 0] += y.dtype.type(share * float(abs(y).max()))

        candidate = Candidates(other=(FAST, spoil))(problem)[0]
        assert (tuner.check(problem, candidate, trusted, given, out) == "") is right


def test_hopeless_candidates_are_timed_once(cupy):
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW / 4, None), hopeless=(5 * SLOW, None))
    assert choose(cupy, candidates) == "own"
    assert candidates.runs["hopeless"] == 2  # compared, and one turn
    assert tuner.remembered(task(), 0).microseconds["hopeless"] == 5e6 * SLOW


def test_operands_are_not_touched_nor_used(cupy):
    tuner.set_autotune(True)
    (x, w, _), out = arrays(cupy)
    x[...], w[...] = np.nan, 0  # of which nothing could be learned
    out[...] = 7
    assert tuner.choose(task(), Candidates(own=(SLOW, None), fast=(FAST, None)), 0, (x, w, None), out).name == "fast"
    assert np.isnan(x.get()).all() and (w.get() == 0).all() and (out.get() == 7).all()


def test_without_memory_for_measuring_the_model_chooses(cupy):
    tuner.set_autotune(True)
    given, out = arrays(cupy)
    cupy.memory.limit = cupy.memory.used + 1000
    with pytest.warns(RuntimeWarning, match="not enough memory to measure"):
        assert tuner.choose(task(), Candidates(own=(SLOW, None), fast=(FAST, None)), 0, given, out).name == "own"
    assert tuner.remembered(task(), 0) is None


def test_nothing_is_measured_while_a_step_is_captured(cupy):
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
    recorder = capture.Recorder(lambda array: array)
    recorder.table = np.zeros(0, np.uint8)
    given, out = arrays(cupy)
    with capture.recording(recorder):
        assert tuner.choose(task(), candidates, 0, given, out).name == "own"
    assert candidates.runs == {"own": 0, "fast": 0}
    assert tuner.choose(task(), candidates, 0, given, out).name == "fast"
    with capture.recording(recorder):  # what is known counts
        assert tuner.choose(task(), candidates, 0, given, out).name == "fast"


def test_measuring_while_a_graph_is_warmed_up_takes_none_of_its_memory(cupy):
    tuner.set_autotune(True)
    given, out = arrays(cupy)
    asked = []

    def allocate(size):
        asked.append(size)
        return cupy.get_default_memory_pool().malloc(size)

    with capture.recording(capture.Recorder(lambda array: array)), cupy.cuda.using_allocator(allocate):
        candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
        assert tuner.choose(task(), candidates, 0, given, out).name == "fast"
        assert asked == []
        cupy.empty(3)
        assert len(asked) == 1


def test_random_numbers_lie_as_the_array_and_tell_places_apart(cupy):
    x = cupy.moveaxis(cupy.empty((3, 40, 30, 8), np.float32), -1, 1)
    made = tuner.random_like(x, 1)
    assert made.shape == x.shape and made.strides == x.strides and made.dtype == x.dtype
    values = made.get()
    assert -1 <= values.min() < -0.99 and 0.99 < values.max() <= 1 and abs(values.mean()) < 0.02
    assert abs(values.std() - 3**-0.5) < 0.01 and len(np.unique(values)) > 0.99 * values.size
    for axis in range(4):
        assert abs(np.corrcoef(values.ravel(), np.roll(values, 1, axis).ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(values.ravel(), tuner.random_like(x, 2).get().ravel())[0, 1]) < 0.03
    assert tuner.random_like(x.astype(np.float16), 1).dtype == np.float16


# ---- what is remembered
def test_modes(cupy, monkeypatch):
    candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
    assert minidl.get_autotune() == "remembered"
    assert choose(cupy, candidates) == "own" and candidates.runs["fast"] == 0
    minidl.set_autotune("measure")
    assert choose(cupy, candidates) == "fast"
    for mode, expected in (("remembered", "fast"), (False, "own"), (True, "fast"), ("off", "own")):
        minidl.set_autotune(mode)
        assert choose(cupy, candidates) == expected, mode
    assert minidl.get_autotune() == "off"
    with pytest.raises(ValueError, match="autotune is 'fastest': it must be True, False or one of 'measure'"):
        minidl.set_autotune("fastest")
    for said, mode in (("1", "measure"), ("0", "off"), ("off", "off"), ("measure", "measure")):
        monkeypatch.setenv("MINIDL_AUTOTUNE", said)
        monkeypatch.setattr(tuner, "_mode", None)
        assert minidl.get_autotune() == mode
    monkeypatch.setenv("MINIDL_AUTOTUNE", "yes")
    monkeypatch.setattr(tuner, "_mode", None)
    with pytest.raises(ValueError, match="MINIDL_AUTOTUNE is 'yes'"):
        minidl.get_autotune()


def test_every_problem_has_an_entry_of_its_own(cupy):
    tuner.set_autotune(True)
    for problem in (task(), task(words="high"), task()._replace(relu=True)):
        choose(cupy, Candidates(own=(SLOW, None), fast=(FAST, None)), problem)
    files = list(tuner.folder(0).iterdir())
    assert len(files) == 3 and all(path.suffix == ".json" and path.name.startswith("conv-") for path in files)
    assert tuner.folder(0).parent == tuner.home() and "stand-in-for-a-GPU-sm90-x132" in tuner.folder(0).name


@pytest.mark.parametrize("content", ["", "{", "[]", '{"problem": 1}', '{"problem": null, "chosen": "a"}'])
def test_a_damaged_file_is_told_of_once_and_replaced(cupy, content):
    candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
    path = tuner.file(task(), 0)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    tuner.set_autotune(True)
    with pytest.warns(RuntimeWarning, match="cannot be used") as told:
        assert choose(cupy, candidates) == "fast"
    assert len(told) == 1 and str(path) in str(told[0].message)
    assert json.loads(path.read_text())["chosen"] == "fast"


def test_a_file_about_another_problem_does_not_count(cupy):
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
    choose(cupy, candidates)
    tuner.file(task(), 0).rename(tuner.file(task(words="high"), 0))
    tuner.set_autotune("remembered")
    with pytest.warns(RuntimeWarning, match="about another problem"):
        assert choose(cupy, candidates, task(words="high")) == "own"


def test_a_folder_that_cannot_be_written(cupy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path / "file"))
    tuner.set_autotune(True)
    candidates = Candidates(own=(SLOW, None), fast=(FAST, None))
    with pytest.warns(RuntimeWarning) as told:
        chosen = [choose(cupy, candidates, task(words=words)) for words in ("highest", "high")]
    assert chosen == ["fast", "fast"]
    said = [str(one.message) for one in told]
    assert len(said) == 1 and "cannot be kept in" in said[0] and "MINIDL_CACHE_DIR" in said[0]


def test_a_choice_that_no_longer_exists_is_measured_again(cupy):
    tuner.set_autotune(True)
    choose(cupy, Candidates(own=(SLOW, None), fast=(FAST, None)))
    tuner.forget()
    assert choose(cupy, Candidates(own=(SLOW, None), other=(FAST, None))) == "other"


def test_many_at_once_leave_whole_files(cupy):
    entries = [tuner.Entry(f"kernel {i}", {f"kernel {i}": 1.0 * i for i in range(200)}, {}) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tuner._remember, task(words=w), 0, e) for e in entries for w in ("highest", "high")]
        for job in jobs:
            job.result()
    assert len(list(tuner.folder(0).iterdir())) == 2
    assert tuner.remembered(task(), 0) in entries and tuner.remembered(task(words="high"), 0) in entries


def test_another_version_of_the_kernels_begins_anew(cupy, monkeypatch):
    before = tuner.home()
    monkeypatch.setattr(tuner, "sources", lambda: "0" * 16)
    assert tuner.home() != before


# ---- the real candidates
WGMMA = {  # strict float32 has no tensor cores, and wgmma cannot read TF32 the way the weight's gradient needs it
    (member, words)
    for member in ("conv", "conv_input", "conv_weight")
    for words in ("tf32x3", "high", "medium")
    if member != "conv_weight" or words == "medium"
}


@pytest.mark.parametrize("member", ["conv", "conv_input", "conv_weight"])
@pytest.mark.parametrize("words", precision.MATMUL_NAMES)
def test_the_candidates_of_a_layer(member, words):
    g = ConvGeometry.of((16, 256, 4, 14, 14), (512, 256, 3, 3, 3), 1, 1)
    problem = tuner.Problem(member, g, "float32", words, False, False, plan.Device())
    names = [candidate.name for candidate in conv.candidates(problem)]
    assert len(set(names)) == len(names) and len(names) > 3
    expected = plan.options(member, g, "float32", words, plan.Device())[0]
    assert names[0] == expected.name
    own = [name for name in names if not name.startswith("wgmma")]
    tiles = {name.partition(" bytes")[0] for name in own}  # every tile that is not hopeless
    assert len(tiles) >= 3 and max(sum(name.startswith(tile) for name in own) for tile in tiles) <= tuner.OF_A_TILE
    assert any(name.startswith("wgmma") for name in names) is ((member, words) in WGMMA)
    older = problem._replace(device=plan.Device(80, 108, 163 * 1024))
    assert not any(candidate.name.startswith("wgmma") for candidate in conv.candidates(older))
    p = conv.planned(problem)
    assert (p.instance.tile, p.splits) == (expected.tile, expected.splits)


def test_small_and_impossible_problems():
    def names(g, capability=90):
        problem = tuner.Problem("conv", g, "float32", "highest", False, False, plan.Device(capability))
        return [candidate.name for candidate in conv.candidates(problem)]

    small = names(ConvGeometry.of((4, 8, 14, 14), (16, 8, 3, 3), 1, 1))
    assert "direct" in small[1:] and len(small) > 2
    depthwise = ConvGeometry.of((8, 64, 56, 56), (64, 1, 3, 3), 1, 1, groups=64)
    assert names(depthwise) == ["direct"]
    assert names(ConvGeometry.of((4, 8, 14, 14), (16, 8, 3, 3), 1, 1), 75) == ["direct"]


@pytest.fixture(scope="module")
def kernels_kept(tmp_path_factory):
    """Where the compiled kernels of this file are kept."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("member", ["conv", "conv_input", "conv_weight"])
def test_real_kernels_are_measured_and_give_the_same(cupy, monkeypatch, kernels_kept, member):
    """Each candidate is run through its own plan: the one that is chosen computes what the reference does."""
    for name, value in {"TILES": TINY_TILES, "TINY": -1, "LEAST_STEPS": 1}.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr("minidl.checking.cuda_host.module.cache_directory", lambda: kernels_kept)
    monkeypatch.setattr(tuner, "ROUNDS", (1, 1))
    monkeypatch.setattr(conv.hopper, "candidates", lambda task: iter(()))  # they have tests of their own
    plan.gather.cache_clear(), plan.weight.cache_clear()
    tuner.set_autotune(True)
    given = whole(1, *operands(member, G))
    problem = conv.problem(member, G, np.dtype(np.float32), False, False, 0)
    names = [candidate.name for candidate in conv.candidates(problem)]
    assert len(names) == 3 and "direct" in names
    try:
        y = getattr(conv, member)(*map(cupy.asarray, given), geometry=G)
        np.testing.assert_array_equal(y.get(), exact(member, given, G))
        entry = tuner.remembered(problem, 0)
        assert entry.chosen in names and not entry.wrong and set(entry.microseconds) <= set(names)
        for candidate in conv.candidates(problem):
            out = cupy.full_like(y, np.nan)
            rest = (None,) if member != "conv_weight" else ()
            candidate.run(*map(cupy.asarray, given), *rest, out)
            np.testing.assert_array_equal(out.get(), y.get(), candidate.name)
    finally:
        plan.gather.cache_clear(), plan.weight.cache_clear()


def test_importing_costs_no_array_library():
    code = "import minidl, sys; minidl.set_autotune('off'); sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_kinds_of_device_keep_their_own(cupy, monkeypatch):
    tuner.set_autotune(True)
    monkeypatch.setattr(tuner, "_kind", lambda device: f"kind {device}")
    tuner._kind.cache_clear = lambda: None
    first = Candidates(own=(SLOW, None), fast=(FAST, None))
    second = Candidates(own=(FAST, None), slow=(SLOW, None))
    assert choose(cupy, first, device=0) == "fast" and choose(cupy, second, device=1) == "own"
    assert {path.name for path in tuner.home().iterdir()} == {"kind 0", "kind 1"}
    assert tuner.remembered(task(), 1).chosen == "own"
