"""Benchmarks against a peer: both libraries run in processes of their own and take turns on the same cores.

A single timing drifts by a fifth and more on most machines; the ratio of two that were taken one right after the other
does not. So everything here is reported as the median of such ratios.
"""

from .duel import Result, duel
