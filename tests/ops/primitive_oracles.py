"""What every primitive should compute, written with NumPy or loops alone: none of this calls the code under test.

Each oracle takes the arrays of a sample case (and Python values) and its metadata, and returns an array or a list of
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from scipy import special

ORACLES: dict[str, Callable[..., Any]] = {}


def oracle(*names: str) -> Callable[[Callable], Callable]:
    def keep(function: Callable) -> Callable:
        ORACLES.update(dict.fromkeys(names, function))
        return function

    return keep


def _low(bound: float | None) -> float:
    return -math.inf if bound is None else bound


def _high(bound: float | None) -> float:
    return math.inf if bound is None else bound


# ---- elementwise: NumPy's function, element by element where that is another way to the value
ORACLES |= {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": np.power,
    "neg": lambda x: 0 - x,
    "abs": lambda x: np.sqrt(x * x),
    "square": lambda x: x**2,
    "floor_divide": lambda a, b: np.floor(a / b),
    "remainder": lambda a, b: a - np.floor(a / b) * b,
    "maximum": lambda a, b: np.where(a > b, a, b),
    "minimum": lambda a, b: np.where(a < b, a, b),
    "larger_part": lambda g, a, b: g * (np.where(a > b, 1.0, 0.0) + np.where(a == b, 0.5, 0.0)),
    "sign": lambda x: np.where(x > 0, 1.0, np.where(x < 0, -1.0, 0.0)),
    "exp": np.exp,
    "expm1": lambda x: np.exp(x) - 1,
    "log": np.log,
    "log1p": lambda x: np.log(1 + x),
    "sqrt": lambda x: x**0.5,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "erf": special.erf,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    "elu_gradient": lambda g, x, alpha: np.where(x > 0, g, g * alpha * np.exp(x)),
    "gelu": lambda x: x * (1 + special.erf(x / math.sqrt(2))) / 2,
    "gelu_gradient": lambda g, x: g * (
        (1 + special.erf(x / math.sqrt(2))) / 2 + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    ),
    "gelu_tanh": lambda x: x * special.expit(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)),
    "gelu_tanh_gradient": lambda g, x: g * (
        special.expit(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
        + x * math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2)
        / (2 * np.cosh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) ** 2
    ),
    "relu": lambda x: x * (x > 0),
    "positive_part": lambda g, y: np.where(y > 0, g, 0.0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "leaky_part": lambda g, x, slope: np.where(x > 0, g, slope * g),
    "clamp": lambda x, min, max: np.array([sorted((_low(min), v, _high(max)))[1] for v in x.flat]).reshape(x.shape),
    "hardtanh": lambda x, min, max: np.array([sorted((min, v, max))[1] for v in x.flat]).reshape(x.shape),
    "hardtanh_gradient": lambda g, x, min, max: g * ((x > min) & (x < max)),
    "clamp_gradient": lambda g, x, min, max: np.where(
        (x >= _low(min)) & (x <= _high(max)), g, 0.0
    ),
    "log_gradient": lambda g, a: g * np.log(a),
    "where": np.where,
    "dropout": lambda x, mask, scale: np.where(mask, x * scale, 0.0),
    "astype": lambda x, dtype: np.array(x, dtype),
    "copy": np.array,
    "alias": np.array,
    "transfer": lambda x, source, target: np.array(x),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "isfinite": lambda x: ~(np.isnan(x) | np.isinf(x)),
    "isnan": lambda x: x != x,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "bitwise_and": lambda a, b: a & b,
    "bitwise_or": lambda a, b: a | b,
    "bitwise_xor": lambda a, b: a ^ b,
    "invert": lambda x: ~x,
}  # fmt: skip


# ---- reductions
@oracle("sum")
def _sum(x, axis, keepdims):
    return np.add.reduce(x, axis=axis, keepdims=keepdims) if axis else x


@oracle("spread")
def _spread(y, shape, axis, keepdims):
    if not keepdims:
        for i in axis:
            y = np.expand_dims(y, i)
    return y + np.zeros(shape)


@oracle("sum_to")
def _sum_to(x, shape):
    out = np.zeros(shape)
    for at in np.ndindex(x.shape):
        tail = at[len(at) - len(shape) :]
        out[tuple(0 if n == 1 else i for i, n in zip(tail, shape, strict=True))] += x[at]
    return out


ORACLES["broadcast_to"] = lambda x, shape: x + np.zeros(shape)


def _reduced(x, axis, keepdims, *, of):
    kept = [i for i in range(x.ndim) if i not in axis]
    count = math.prod(x.shape[i] for i in axis)
    moved = np.transpose(x, [*kept, *axis]).reshape([*(x.shape[i] for i in kept), count])
    out = np.array([of(moved[at]) for at in np.ndindex(moved.shape[:-1])]).reshape(moved.shape[:-1])
    return out.reshape([1 if i in axis else n for i, n in enumerate(x.shape)]) if keepdims else out


for _name, _of in {
    "amax": max, "amin": min, "any": lambda v: any(v.tolist()), "all": lambda v: all(v.tolist()),
    "logsumexp": lambda v: math.log(math.fsum(map(math.exp, v))),
}.items():  # fmt: skip
    ORACLES[_name] = lambda x, axis, keepdims, of=_of: _reduced(x, axis, keepdims, of=of)


@oracle("extreme_share")
def _extreme_share(x, y, axis, keepdims):
    out = np.zeros(x.shape)
    for i, row in enumerate(x):  # the samples share along axis 1
        ties = [j for j, v in enumerate(row) if v == np.ravel(y)[i]]
        for j in ties:
            out[i, j] = 1 / len(ties)
    return out


def _first(x, axis, keepdims):
    """The index of the first of the smallest elements."""
    index = np.argsort(x, axis, "stable").take(0, axis)
    return np.expand_dims(index, axis) if keepdims else index


ORACLES["argmin"] = _first
ORACLES["argmax"] = lambda x, axis, keepdims: _first(-x, axis, keepdims)


@oracle("cumsum")
def _cumsum(x, axis):
    out, total = np.zeros(x.shape), np.zeros(np.delete(x.shape, axis).astype(int))
    for i in range(x.shape[axis]):
        total = total + x.take(i, axis)
        np.moveaxis(out, axis, 0)[i] = total
    return out


ORACLES["softmax"] = lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True)
ORACLES["softmax_gradient"] = lambda g, y, axis: y * g - y * (g * y).sum(axis, keepdims=True)
ORACLES["log_softmax_gradient"] = lambda g, y, axis: g - np.exp(y) * g.sum(axis, keepdims=True)
ORACLES["log_softmax"] = lambda x, axis: np.log(np.exp(x) / np.exp(x).sum(axis, keepdims=True))

# ---- shape
ORACLES |= {
    "reshape": lambda x, shape: np.array(list(x.flat)).reshape(shape),
    "transpose": lambda x, axes: np.einsum(x, list(range(x.ndim)), list(axes)),
}


@oracle("flip")
def _flip(x, axis):
    out = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        out[tuple(n - 1 - i if k in axis else i for k, (i, n) in enumerate(zip(at, x.shape, strict=True)))] = x[at]
    return out


@oracle("roll")
def _roll(x, shift, axis):
    out = np.empty(x.shape)
    for at in np.ndindex(x.shape):
        to = list(at)
        for s, k in zip(shift, axis, strict=True):
            to[k] = (to[k] + s) % x.shape[k]
        out[tuple(to)] = x[at]
    return out


@oracle("pad")
def _pad(x, width, value):
    out = np.full([lo + n + hi for n, (lo, hi) in zip(x.shape, width, strict=True)], value)
    for at in np.ndindex(x.shape):
        out[tuple(i + lo for i, (lo, _) in zip(at, width, strict=True))] = x[at]
    return out


@oracle("crop")
def _crop(y, width):
    out = np.empty([n - lo - hi for n, (lo, hi) in zip(y.shape, width, strict=True)])
    for at in np.ndindex(out.shape):
        out[at] = y[tuple(i + lo for i, (lo, _) in zip(at, width, strict=True))]
    return out


@oracle("cat")
def _cat(*xs, axis, sizes):
    return np.array([part for x in xs for part in np.moveaxis(x, axis, 0)]).swapaxes(0, axis)


@oracle("split")
def _split(x, axis, sizes):
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x.take(range(s, s + n), axis) for s, n in zip(starts, sizes, strict=True)]


ORACLES["stack"] = lambda *xs, axis: np.concatenate([np.expand_dims(x, axis) for x in xs], axis)
ORACLES["unbind"] = lambda x, axis: [x.take(i, axis) for i in range(x.shape[axis])]

# ---- indexing
ORACLES["getitem"] = lambda x, at: x[at]


@oracle("scatter")
def _scatter(y, at, shape):
    numbers = np.arange(math.prod(shape)).reshape(shape)
    out = np.zeros(math.prod(shape))
    for place, value in zip(np.ravel(numbers[at]), np.ravel(y), strict=True):
        out[place] += value
    return out.reshape(shape)


@oracle("gather")
def _gather(x, index, axis):
    out = np.zeros(index.shape)
    for at in np.ndindex(index.shape):
        out[at] = x[(*at[:axis], index[at], *at[axis + 1 :])]
    return out


@oracle("scatter_add")
def _scatter_add(y, index, axis, shape):
    out = np.zeros(shape)
    for at in np.ndindex(index.shape):
        out[(*at[:axis], index[at], *at[axis + 1 :])] += y[at]
    return out


@oracle("diagonal")
def _diagonal(x, offset, axis1, axis2):
    front = np.moveaxis(x, (axis1, axis2), (0, 1))
    found = [front[i, j] for i, j in np.ndindex(*front.shape[:2]) if j - i == offset]
    return np.stack(found, -1) if found else np.zeros((*front.shape[2:], 0))


@oracle("diagonal_scatter")
def _diagonal_scatter(y, offset, axis1, axis2, shape):
    out = np.zeros(shape)
    places = [(i, j) for i, j in np.ndindex(shape[axis1], shape[axis2]) if j - i == offset]
    for k, at in enumerate(places):
        np.moveaxis(out, (axis1, axis2), (0, 1))[at] = y[..., k]
    return out


# ---- products
ORACLES["matmul"] = lambda a, b: (a[..., :, :, None] * b[..., None, :, :]).sum(-2)
ORACLES["linear"] = lambda x, w, b: (x[..., None, :] * w).sum(-1) + (0 if b is None else b)


@oracle("linear_activated")
def _linear_activated(x, w, b, activation):
    y = ORACLES["linear"](x, w, b)
    return {"relu": lambda: np.where(y.real > 0, y, 0), "tanh": lambda: np.tanh(y), "sigmoid": lambda: _logistic(y)}[
        activation
    ]()


@oracle("linear_activated_slope")
def _linear_activated_slope(g, y, activation):
    slope = {"relu": y > 0, "tanh": 1 - y * y, "sigmoid": y - y * y}[activation] * g
    return [slope, slope.reshape(-1, y.shape[-1]).sum(0)]


ORACLES["linear_weight"] = lambda y, x: sum(
    (np.outer(g, v) for g, v in zip(y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), strict=True)),
    np.zeros((y.shape[-1], x.shape[-1])),
)
ORACLES["contract"] = lambda a, b, subscripts: np.einsum("{},{}->{}".format(*subscripts), a, b)


# ---- convolution: every product of an input, a weight and an output position, one by one
def _terms(g: Any) -> Iterator[tuple[tuple, tuple, tuple]]:
    """Indices of x, w and y that meet in a convolution with these sizes."""
    per_in, per_out = g.in_channels // g.groups, g.out_channels // g.groups
    for n, k, c in product(range(g.batch), range(g.out_channels), range(per_in)):
        for o, t in product(np.ndindex(*g.output), np.ndindex(*g.kernel)):
            at = [i * s - lo + j * d for i, j, s, (lo, _), d in zip(o, t, g.stride, g.padding, g.dilation, strict=True)]
            if all(0 <= i < size for i, size in zip(at, g.input, strict=True)):
                yield (n, (k // per_out) * per_in + c, *at), (k, c, *t), (n, k, *o)


@oracle("conv")
def _conv(x, w, geometry):
    y = np.zeros(geometry.y_shape)
    for ix, iw, iy in _terms(geometry):
        y[iy] += x[ix] * w[iw]
    return y


@oracle("conv_input")
def _conv_input(y, w, geometry):
    x = np.zeros(geometry.x_shape)
    for ix, iw, iy in _terms(geometry):
        x[ix] += y[iy] * w[iw]
    return x


@oracle("conv_weight")
def _conv_weight(x, y, geometry):
    w = np.zeros(geometry.w_shape)
    for ix, iw, iy in _terms(geometry):
        w[iw] += x[ix] * y[iy]
    return w


@oracle("conv_bias")
def _conv_bias(x, w, b, geometry, transposed):
    y = (_conv_input if transposed else _conv)(x, w, geometry)
    for at in np.ndindex(y.shape):
        y[at] += b[at[1]]
    return y


@oracle("conv_relu")
def _conv_relu(x, w, b, geometry, transposed):
    channels = geometry.in_channels if transposed else geometry.out_channels
    y = _conv_bias(x, w, np.zeros(channels) if b is None else b, geometry, transposed)
    return np.where(y < 0, 0, y)


@oracle("conv_relu_slope")
def _conv_relu_slope(g, y):
    gz, gb = np.zeros(g.shape), np.zeros(g.shape[1])
    for at in np.ndindex(g.shape):
        if y[at] > 0:
            gz[at] = g[at]
            gb[at[1]] += g[at]
    return [gz, gb]


# ---- pooling
def _windows(g: Any) -> Iterator[tuple[tuple, list[tuple[tuple, tuple]]]]:
    """For each output position: (place in the kernel, place in the input) of the window, places outside included."""
    for o in np.ndindex(*g.output):
        yield (
            o,
            [
                (
                    t,
                    tuple(
                        i * s - p + j * d for i, j, s, p, d in zip(o, t, g.stride, g.padding, g.dilation, strict=True)
                    ),
                )
                for t in np.ndindex(*g.kernel)
            ],
        )


def _inside(g: Any, at: tuple) -> bool:
    return all(0 <= i < n for i, n in zip(at, g.input, strict=True))


@oracle("max_pool")
def _max_pool(x, geometry):
    g = geometry
    y, indices = np.zeros(g.y_shape), np.zeros(g.y_shape, np.int32)
    for n, c in np.ndindex(g.batch, g.channels):
        for o, window in _windows(g):
            places = [at for _, at in window if _inside(g, at)]
            best = max(places, key=lambda at: x[(n, c, *at)])  # the first of equals
            y[(n, c, *o)] = x[(n, c, *best)]
            indices[(n, c, *o)] = np.ravel_multi_index(best, g.input)
    return [y, indices]


@oracle("max_unpool")
def _max_unpool(y, indices, geometry):
    g = geometry
    x = np.zeros((g.batch, g.channels, math.prod(g.input)))
    for at in np.ndindex(*g.y_shape):
        x[(*at[:2], indices[at])] += y[at]
    return x.reshape(g.x_shape)


@oracle("pool_at")
def _pool_at(x, indices, geometry):
    planes = x.reshape(geometry.batch, geometry.channels, math.prod(geometry.input))
    return np.array([planes[(*at[:2], indices[at])] for at in np.ndindex(*geometry.y_shape)]).reshape(geometry.y_shape)


def _shares(g: Any, count_include_pad: bool, divisor: int | None) -> Iterator[tuple[tuple, list[tuple], float]]:
    """For each output position: the input positions of its window, and what their sum is divided by."""
    for o, window in _windows(g):
        places = [at for _, at in window if _inside(g, at)]
        padded = [at for _, at in window if all(i < n + p for i, n, p in zip(at, g.input, g.padding, strict=True))]
        yield o, places, divisor or (len(padded) if count_include_pad else len(places))


@oracle("avg_pool")
def _avg_pool(x, geometry, count_include_pad, divisor):
    y = np.zeros(geometry.y_shape)
    for o, places, count in _shares(geometry, count_include_pad, divisor):
        y[(..., *o)] = sum(x[(..., *at)] for at in places) / count
    return y


@oracle("avg_unpool")
def _avg_unpool(y, geometry, count_include_pad, divisor):
    x = np.zeros(geometry.x_shape)
    for o, places, count in _shares(geometry, count_include_pad, divisor):
        for at in places:
            x[(..., *at)] += y[(..., *o)] / count
    return x


@oracle("unfold")
def _unfold(x, geometry):
    g = geometry
    columns = np.zeros((g.batch, g.channels, *g.kernel, *g.output))
    for o, window in _windows(g):
        for t, at in window:
            if _inside(g, at):
                columns[(..., *t, *o)] = x[(..., *at)]
    return columns


@oracle("fold")
def _fold(columns, geometry):
    x = np.zeros(geometry.x_shape)
    for o, window in _windows(geometry):
        for t, at in window:
            if _inside(geometry, at):
                x[(..., *at)] += columns[(..., *t, *o)]
    return x


# ---- fused
def _channels(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return v.reshape(1, -1, *(1,) * (x.ndim - 2))


@oracle("batch_norm")
def _batch_norm(x, gamma, beta, eps):
    flat = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    mean, var = flat.mean(1), ((flat - flat.mean(1, keepdims=True)) ** 2).mean(1)
    normal = (x - _channels(mean, x)) / np.sqrt(_channels(var, x) + eps)
    return [normal * _channels(gamma, x) + _channels(beta, x), mean, var]


@oracle("batch_norm_backward")
def _batch_norm_backward(g, x, gamma, mean, var, needs, eps):
    """The formulas of Ioffe & Szegedy 2015, section 3."""
    axes = (0, *range(2, x.ndim))
    m = x.size // x.shape[1]
    normal = (x - _channels(mean, x)) / np.sqrt(_channels(var, x) + eps)
    g_normal = g * _channels(gamma, x)
    g_var = (g_normal * (x - _channels(mean, x)) * -0.5 * (_channels(var, x) + eps) ** -1.5).sum(axes)
    g_mean = -(g_normal / np.sqrt(_channels(var, x) + eps)).sum(axes)
    gx = g_normal / np.sqrt(_channels(var, x) + eps)
    gx = gx + _channels(g_var, x) * 2 * (x - _channels(mean, x)) / m + _channels(g_mean, x) / m
    return [gx, (g * normal).sum(axes), g.sum(axes)]


def _positions(x: np.ndarray, target: np.ndarray) -> Iterator[tuple[tuple, np.ndarray]]:
    """Each element of the target, and the logits it is about."""
    for at in np.ndindex(target.shape):
        yield at, x[(at[0], slice(None), *at[1:])]


@oracle("binary_cross_entropy")
def _binary_cross_entropy(x, t):
    return -t * np.log(_logistic(x)) - (1 - t) * np.log(_logistic(-x))


@oracle("binary_cross_entropy_backward")
def _binary_cross_entropy_backward(g, x, t, needs):
    return [g * (_logistic(x) - t), g * (np.log(_logistic(-x)) - np.log(_logistic(x)))]


@oracle("softmax_cross_entropy")
def _softmax_cross_entropy(x, target):
    loss, lse = np.zeros(target.shape), np.zeros(target.shape)
    for at, logits in _positions(x, target):
        lse[at] = math.log(math.fsum(map(math.exp, logits)))
        loss[at] = lse[at] - logits[target[at]]
    return [loss, lse]


@oracle("softmax_cross_entropy_backward")
def _softmax_cross_entropy_backward(g, x, target, lse, needs):
    gx = np.zeros(x.shape)
    for at, logits in _positions(x, target):
        p = np.exp(logits) / np.exp(logits).sum()
        p[target[at]] -= 1
        gx[(at[0], slice(None), *at[1:])] = g[at] * p
    return [gx, None]


# ---- recurrences: one sample, one step at a time; complex numbers pass through
def _logistic(v):
    return 1 / (1 + np.exp(-v))


def _per_sample(x, reverse):
    """Step and sample, in the order of the recurrence."""
    steps = range(len(x) - 1, -1, -1) if reverse else range(len(x))
    return ((t, n) for t in steps for n in range(x.shape[1]))


def _bias(b, w):
    return np.zeros(len(w)) if b is None else b


@oracle("rnn")
def _rnn(x, h, w, b, relu, reverse):
    y, state = np.zeros_like(x), [*h]
    for t, n in _per_sample(x, reverse):
        a = x[t, n] + w @ state[n] + _bias(b, w)
        y[t, n] = state[n] = a * (a.real > 0) if relu else np.tanh(a)
    return y


@oracle("lstm")
def _lstm(x, h, c, w, b, reverse):
    size = h.shape[1]
    y, gates, cells = np.zeros((len(x) + 1, *h.shape), x.dtype), np.zeros_like(x), np.zeros_like(x[..., :size])
    state, cell = [*h], [*c]
    for t, n in _per_sample(x, reverse):
        a = (x[t, n] + w @ state[n] + _bias(b, w)).reshape(4, size)
        i, f, g, o = _logistic(a[0]), _logistic(a[1]), np.tanh(a[2]), _logistic(a[3])
        cell[n] = f * cell[n] + i * g
        state[n] = o * np.tanh(cell[n])
        y[t, n], gates[t, n], cells[t, n] = state[n], np.concatenate([i, f, g, o]), cell[n]
    y[-1] = cell
    return [y, gates, cells]


@oracle("gru")
def _gru(x, h, w, b, reverse):
    size = h.shape[1]
    y, gates, inner, state = np.zeros_like(x[..., :size]), np.zeros_like(x), np.zeros_like(x[..., :size]), [*h]
    for t, n in _per_sample(x, reverse):
        a, u = x[t, n].reshape(3, size), (w @ state[n] + _bias(b, w)).reshape(3, size)
        r, z = _logistic(a[0] + u[0]), _logistic(a[1] + u[1])
        new = np.tanh(a[2] + r * u[2])
        y[t, n] = state[n] = (1 - z) * new + z * state[n]
        gates[t, n], inner[t, n] = np.concatenate([r, z, new]), u[2]
    return [y, gates, inner]


@oracle("conv_gru")
def _conv_gru(x, h, w, geometry, reverse):
    size = h.shape[1]
    y, gates, candidates = (np.zeros_like(x[:, :, :k]) for k in (size, 2 * size, size))

    def convolved(image, weight):
        """(C, H, W) * (K, C, kH, kW), with zeros around the image."""
        out = np.zeros((len(weight), *image.shape[1:]), np.result_type(image, weight))
        high, wide = image.shape[1:]
        for i, j, k, m in product(range(high), range(wide), *map(range, weight.shape[2:])):
            row, column = i + k - weight.shape[2] // 2, j + m - weight.shape[3] // 2
            if 0 <= row < high and 0 <= column < wide:
                out[:, i, j] += weight[:, :, k, m] @ image[:, row, column]
        return out

    state = [*h]
    for t, n in _per_sample(x, reverse):
        zr = _logistic(x[t, n, : 2 * size] + convolved(state[n], w[: 2 * size]))
        z, r = zr[:size], zr[size:]
        c = np.tanh(x[t, n, 2 * size :] + convolved(r * state[n], w[2 * size :]))
        y[t, n] = state[n] = (1 - z) * state[n] + z * c
        gates[t, n], candidates[t, n] = zr, c
    return [y, gates, candidates]


def _complex_step(forward, g, x, rest, params):
    """The gradient of sum(g * forward(x, *rest)) for every argument: Im f(a + ih) / h, exact for tiny h (Squire and
    Trapp 1998)."""
    args, step = [x, *rest], 1e-100
    found = []
    for k, a in enumerate(args):
        if a is None:
            found.append(None)
            continue
        slope = np.zeros(a.shape)
        for at in np.ndindex(a.shape):
            moved = [None if b is None else b.astype(complex) for b in args]
            moved[k][at] += 1j * step
            out = forward(*moved, **params)
            slope[at] = (g * (out[0] if isinstance(out, list) else out)).sum().imag / step
        found.append(slope)
    return found


# The backward kernels are given what the forward ones kept, not x: the oracles find the x that it came from.
def _before_logistic(v):
    return np.log(v / (1 - v))


@oracle("rnn_backward")
def _rnn_backward(g, h, w, b, y, needs, relu, reverse):
    x, state = np.zeros_like(y), [*h]
    for t, n in _per_sample(y, reverse):
        before = np.where(y[t, n] > 0, y[t, n], -1.0) if relu else np.arctanh(y[t, n])
        x[t, n] = before - w @ state[n] - _bias(b, w)
        state[n] = y[t, n]
    return _complex_step(_rnn, g, x, [h, w, b], {"relu": relu, "reverse": reverse})


@oracle("lstm_backward")
def _lstm_backward(g, h, c, w, b, y, gates, cells, needs, reverse):
    size = h.shape[1]
    x, state = np.zeros_like(gates), [*h]
    for t, n in _per_sample(gates, reverse):
        i, f, new, o = gates[t, n].reshape(4, size)
        a = np.concatenate([_before_logistic(i), _before_logistic(f), np.arctanh(new), _before_logistic(o)])
        x[t, n] = a - w @ state[n] - _bias(b, w)
        state[n] = y[t, n]
    return _complex_step(_lstm, g, x, [h, c, w, b], {"reverse": reverse})


@oracle("gru_backward")
def _gru_backward(g, h, w, b, y, gates, inner, needs, reverse):
    size = h.shape[1]
    x, state = np.zeros_like(gates), [*h]
    for t, n in _per_sample(gates, reverse):
        r, z, new = gates[t, n].reshape(3, size)
        u = w @ state[n] + _bias(b, w)
        x[t, n] = np.concatenate([_before_logistic(np.concatenate([r, z])), np.arctanh(new)])
        x[t, n] -= u * np.concatenate([np.ones(2 * size), r])
        state[n] = y[t, n]
    return _complex_step(_gru, g, x, [h, w, b], {"reverse": reverse})


@oracle("conv_gru_backward")
def _conv_gru_backward(g, h, w, y, gates, candidates, needs, geometry, reverse):
    # the products with the states are what the forward oracle gives without inputs to add: solve for x step by step
    x, params = np.zeros((*gates.shape[:2], 3 * h.shape[1], *h.shape[2:])), {"geometry": geometry, "reverse": reverse}
    wanted = np.concatenate([_before_logistic(gates), np.arctanh(candidates)], 2)
    for t, _ in _per_sample(x[:, :1], reverse):
        for part in (slice(0, 2 * h.shape[1]), slice(2 * h.shape[1], None)):  # the candidate needs the gates first
            _, zr, c = _conv_gru(x, h, w, **params)
            have = np.concatenate([_before_logistic(zr), np.arctanh(c)], 2)
            x[t, :, part] += wanted[t, :, part] - have[t, :, part]
    return _complex_step(_conv_gru, g, x, [h, w], params)
