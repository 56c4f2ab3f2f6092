"""Benchmarks against a peer: both libraries run in processes of their own and take turns on the same cores.

A single timing drifts by a fifth and more on most machines; the ratio of two that were taken one right after the other
does not. So everything here is reported as the median of such ratios.

    minidl bench                        a few whole training steps
    minidl bench conv optimizers        what was asked for; minidl bench --list names all
"""

from .duel import BenchError, Disagreement, Result, duel
