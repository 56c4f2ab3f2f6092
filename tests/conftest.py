"""Hypothesis profiles, and switches that turn skipped GPU tiers and skipped browser tests into failures.

Most CUDA code is checked without a device: CUDA C++ runs on the CPU behind a shim and is compiled for real devices by
NVRTC, numba.cuda runs in its simulator, the engine computes on a stand-in for CuPy. Where a compiler or a library is
missing these tests skip and say so.
MINIDL_REQUIRE_GPU_TIERS=1 (set by .ci/run) does not let them: a skip in one of their files fails, and so does a run in
which a tier passed no test. Tests marked `gpu` need a device and may always skip. In the same way
MINIDL_REQUIRE_BROWSER=1 (set by .ci/run where there is a browser) does not let tests marked `browser` skip.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a script's `pytest &` inherits it: tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

TIERS = {
    "CUDA C++ on the CPU": "tests/kernels/test_cuda_host*.py",
    "CUDA C++ compiled by NVRTC": "tests/kernels/test_cuda_nvrtc*.py",
    "numba.cuda in its simulator": "tests/kernels/test_numba_cuda*.py",
    "the engine on CUDA arrays": "tests/cuda_engine/test_engine*.py",
}
REQUIRED = os.environ.get("MINIDL_REQUIRE_GPU_TIERS") == "1"
REQUIRE_BROWSER = os.environ.get("MINIDL_REQUIRE_BROWSER") == "1"
passed: set[str] = set()  # tiers


def tier_of(file: str | Path) -> str | None:
    return next((t for t, pattern in TIERS.items() if fnmatch(Path(file).as_posix(), f"*{pattern}")), None)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, switch: str, kind: str) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{switch} is set, so this must run ({kind}). {reason}"


def refuse_skipped_tier(report: pytest.TestReport | pytest.CollectReport, file: Path) -> None:
    tier = tier_of(file)
    if REQUIRED and tier:
        refuse_skip(report, "MINIDL_REQUIRE_GPU_TIERS", tier)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("gpu") is None:
        refuse_skipped_tier(report, item.path)
    if REQUIRE_BROWSER and item.get_closest_marker("browser"):
        refuse_skip(report, "MINIDL_REQUIRE_BROWSER", "browser")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skipped_tier(report, collector.path)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        tier = tier_of(report.nodeid.partition("::")[0])
        if tier:
            passed.add(tier)


def missing(config: pytest.Config) -> list[str]:
    worker = hasattr(config, "workerinput")  # of pytest-xdist: sees only its share
    return [t for t in TIERS if t not in passed] if REQUIRED and not worker and not config.option.collectonly else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    if missing(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for tier in missing(config):
        terminalreporter.write_line(f"MINIDL_REQUIRE_GPU_TIERS is set, but no test passed in: {tier}", red=True)
