"""Sums of products written with indices, as pairwise contractions: each is one batched product of matrices."""

from __future__ import annotations

import builtins
from typing import Any

from ..core.dtypes import result_type
from ..ops import linalg
from ..ops.elementwise import astype
from .indexing import diagonal
from .reduction import sum
from .shape import movedim, permute, squeeze


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products written with indices: einsum("bik,bkj->bij", a, b). "..." stands for broadcast axes; without
    "->" the result has the indices that occur once, in alphabetical order."""
    inputs, output = _parse_einsum(equation, operands)
    terms = [(_tidy(x, names), "".join(dict.fromkeys(names))) for x, names in zip(operands, inputs, strict=True)]
    while len(terms) > 1:
        (a, left), (b, right) = terms.pop(0), terms.pop(0)
        needed = set(output).union(*(names for _, names in terms))
        terms.insert(0, _contract(a, left, b, right, needed))
    x, names = terms[0]
    extra = tuple(i for i, n in enumerate(names) if n not in output)
    x, names = (sum(x, extra) if extra else x), "".join(n for n in names if n in output)
    return permute(x, tuple(names.index(n) for n in output)) if names != output else x


def _parse_einsum(equation: str, operands: tuple) -> tuple[list[str], str]:
    from string import ascii_letters  # which compiles a regular expression

    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ValueError(f"einsum: {equation!r} names {len(inputs)} operands, {len(operands)} were given")
    free = [c for c in ascii_letters if c not in equation]
    unnamed = [x.ndim - len(t.replace("...", "")) for t, x in zip(inputs, operands, strict=True) if "..." in t]
    longest = builtins.max(unnamed, default=0)
    dots = "".join(free[:longest])
    expanded = []
    for i, (term, x) in enumerate(zip(inputs, operands, strict=True)):
        count = x.ndim - len(term.replace("...", ""))
        if count < 0 or (count and "..." not in term):
            raise ValueError(
                f"einsum: operand {i} has {x.ndim} axes, but {term!r} names {len(term.replace('...', ''))}"
            )
        expanded.append(term.replace("...", dots[len(dots) - count :] if count else ""))
    if arrow:
        output = output.replace("...", dots)
    else:
        names = "".join(expanded)
        output = dots + "".join(sorted(n for n in set(names) if names.count(n) == 1 and n not in dots))
    for i, (term, x) in enumerate(zip(expanded, operands, strict=True)):
        for name in term:
            if len(lengths := {n for other, n in zip(term, x.shape, strict=True) if other == name}) > 1:
                raise ValueError(f"einsum: index {name!r} has the lengths {sorted(lengths)} in operand {i}")
    size: dict[str, int] = {}
    for i, (term, x) in enumerate(zip(expanded, operands, strict=True)):
        for name, n in zip(term, x.shape, strict=True):
            if not name.isalpha():
                raise ValueError(f"einsum: {name!r} in {equation!r} is no index (a letter)")
            if size.setdefault(name, n) != n:
                if 1 not in (n, size[name]):
                    raise ValueError(f"einsum: index {name!r} has length {size[name]} before and {n} in operand {i}")
                size[name] = builtins.max(n, size[name])
    if missing := [n for n in output if n not in size]:
        raise ValueError(f"einsum: {missing[0]!r} in the output of {equation!r} is in no operand")
    if len(set(output)) < len(output):
        raise ValueError(f"einsum: the output of {equation!r} names an index twice")
    return expanded, output


def _tidy(x: Any, names: str) -> Any:
    """An index that occurs twice in one operand means its diagonal."""
    while repeated := [n for n in names if names.count(n) > 1]:
        first, second = [i for i, n in enumerate(names) if n == repeated[0]][:2]
        x = movedim(diagonal(x, 0, first, second), -1, first)
        names = names[:second] + names[second + 1 :]
    return x


def _contract(a: Any, left: str, b: Any, right: str, needed: set[str]) -> tuple[Any, str]:
    """One product of two terms; indices nobody needs any more are summed."""
    # axes of length 1 go first, and from both: what is left of the other's is then its own, perhaps to be summed
    thin_a, thin_b = _thin(a, left, b, right), _thin(b, right, a, left)
    a, left = (squeeze(a, thin_a) if thin_a else a), _without(left, thin_a)
    b, right = (squeeze(b, thin_b) if thin_b else b), _without(right, thin_b)
    lone_a, lone_b = _lone(left, right, needed), _lone(right, left, needed)
    a, left = (sum(a, lone_a) if lone_a else a), _without(left, lone_a)
    b, right = (sum(b, lone_b) if lone_b else b), _without(right, lone_b)
    output = "".join(dict.fromkeys(n for n in left + right if n in needed))
    dtype = result_type(a, b)
    a, b = (x if x.dtype == dtype else astype(x, dtype=dtype) for x in (a, b))
    return linalg.contract(a, b, subscripts=(left, right, output)), output


def _thin(a: Any, left: str, b: Any, right: str) -> tuple[int, ...]:
    """Axes of a that have length 1 there and more in b."""
    return tuple(i for i, n in enumerate(left) if n in right and a.shape[i] == 1 != b.shape[right.index(n)])


def _lone(names: str, others: str, needed: set[str]) -> tuple[int, ...]:
    """Axes that only this term has and nobody needs."""
    return tuple(i for i, n in enumerate(names) if n not in others and n not in needed)


def _without(names: str, axes: tuple[int, ...]) -> str:
    return "".join(n for i, n in enumerate(names) if i not in axes)
