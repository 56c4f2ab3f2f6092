"""The matrices of Winograd's minimal filtering, by Toom and Cook's construction."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

# Ones cost no multiplication. Where more points are needed, these lose 0.45 of what (0, 1, -1, 2, -2) lose (root mean
# square; a quarter of the largest error), because their powers stay closer together; all are exact in binary.
FEW = tuple(map(Fraction, ("0", "1", "-1")))
MANY = tuple(map(Fraction, ("0", "5/8", "-5/8", "3/2", "-3/2")))


def matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T (m, n), G (n, r) and B^T (n, n), n = m + r - 1, of F(m, r): y = A^T [(G w) * (B^T x)] are m outputs of a
    correlation of x (n) with w (r), with n multiplications instead of m r.

    By transposition from the product of polynomials of degrees m - 1 and r - 1, taken at n - 1 points and infinity.
    """
    n = m + r - 1
    points = (FEW if n - 1 <= len(FEW) else MANY)[: n - 1]
    at = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    g, bt = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        g.append([p**k / scale for k in range(r)])
        bt.append([*_polynomial(others), Fraction(0)])
    g.append([Fraction(k == r - 1) for k in range(r)])
    bt.append(_polynomial(points))
    at_, g_, bt_ = (np.array([[float(v) for v in row] for row in matrix]) for matrix in (at, g, bt))
    return at_, g_, bt_


def _polynomial(roots: list[Fraction] | tuple[Fraction, ...]) -> list[Fraction]:
    """Coefficients, constant first, of the product of x - root."""
    out = [Fraction(1)]
    for root in roots:
        out = [a - root * b for a, b in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
    return out


FORMS = ((2, 3), (4, 3), (2, 2), (4, 2))
_all = [matrices(*form) for form in FORMS]
# what is done with tiles: those of the input, and of the output's gradient
INTO = [bt for _, _, bt in _all] + [at.T for at, _, _ in _all]
OUT_OF = [at for at, _, _ in _all]
OF_WEIGHT = [g for _, g, _ in _all]
OF_SUMS = [g.T for _, g, _ in _all]
