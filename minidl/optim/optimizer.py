"""What all optimizers share: groups of parameters with their options, state, and the step over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from importlib import import_module
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from ..core import cuda
from ..core.dtypes import DEFAULT
from ..core.mode import enable_grad
from ..core.tensor import Tensor, to_device
from ..functional.creation import zeros_like
from ..kernels import capture, table
from . import master

Params = Iterable[Tensor] | Iterable[Mapping[str, Any]]
Group = dict[str, Any]
Slot = tuple[Any, Any, dict[str, Any]]  # arrays of a parameter and of its gradient, and the parameter's state


class Optimizer:
    """The base of all optimizers; abstract. One defines `update`, or `update_all`, and `check` for its options.

    params: the tensors to optimise, or dicts {"params": tensors, option: value, …}, one for each group with options of
    its own. defaults: the options of groups that say nothing else.

    param_groups is a list of such dicts, complete, whose options may be changed at any time (the learning rate is
    `param_groups[0]["lr"]`); state[p] holds what is remembered about parameter p: arrays like p, and numbers.
    Parameters of 16 bits are updated as float32: state[p]["master"] is that copy, and all other arrays are like it. The
    option "master_weights": False of a group does without. grad_scale: what amp.GradScaler has multiplied gradients of
    float16 parameters with.
    Raises TypeError or ValueError for what cannot be optimised and for options out of range.
    """

    always: ClassVar[tuple[str, ...]] = ()  # names that are in state[p] after a step
    sometimes: ClassVar[tuple[str, ...] | None] = None  # names that some options add; None: any
    grad_scale: float = 1.0

    def __init__(self, params: Params, defaults: Mapping[str, Any]):
        self.defaults = dict(defaults)
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._masters = master.Masters()
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(f"params must be a list of tensors or of groups, not one {type(params).__name__}")
        self._check_iterable("params", params)
        listed: list[Any] = list(params)
        if not listed:
            raise ValueError("params is empty: there is nothing to optimise (an iterator that was used up?)")
        for group in listed if isinstance(listed[0], Mapping) else [{"params": listed}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Optimise more tensors: {"params": tensors, option: value, …}; options left out are the defaults."""
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f'a group is a dict with the key "params", not {param_group!r}')
        group = {**self.defaults, **param_group}
        params = group["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError("params must have an order that is the same in every run: give a list, not a set")
        if not isinstance(params, Tensor):
            self._check_iterable('"params"', params)
        group["params"] = params = [params] if isinstance(params, Tensor) else list(params)
        number = len(self.param_groups)
        known = {p: i for i, g in enumerate(self.param_groups) for p in g["params"]}
        for i, p in enumerate(params):
            where = f"params[{i}] of group {number}"
            if not isinstance(p, Tensor):
                raise TypeError(f"{where} is a {type(p).__name__}, not a tensor")
            if not p.is_leaf:
                raise ValueError(
                    f"{where} (shape {p.shape}) is no leaf but a result in a graph: it cannot be optimised"
                )
            if not p.is_floating_point():
                raise TypeError(f"{where} is {p.dtype}; only floating-point tensors can be optimised")
            if p in known:
                raise ValueError(
                    f"{where} (shape {p.shape}) is in group {known[p]} already; each parameter goes in once"
                )
            known[p] = number
        self.check(group)
        self.param_groups.append(group)

    def _check_iterable(self, name: str, params: Any) -> None:
        """Raise TypeError, with what to write instead, for a network (or its method) in the place of its parameters."""
        what, call = type(params).__name__, f"{type(self).__name__}(net.parameters(), …)"
        if hasattr(params, "parameters"):
            raise TypeError(f"{name} is a {what}, not its parameters: write {call}")
        if not isinstance(params, Iterable):
            hint = f"; write {call}, with brackets" if callable(params) else ""
            raise TypeError(f"{name} must be a list of tensors or of groups, not a {what}{hint}")

    def check(self, group: Group) -> None:
        """Raise ValueError for options that make no sense. Optimizers add their own."""
        at_least_zero(group, "lr", "weight_decay")
        if not isinstance(group.get("master_weights", True), bool):
            raise ValueError(f"master_weights is {group['master_weights']!r}; it must be True or False")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or with False set them to 0."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:  # it may share its memory, so it is never written to
                    p.grad = None if set_to_none else zeros_like(p.grad)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, in place.

        closure: clears the gradients, computes the loss, calls backward() and returns the loss; it is called first, and
        its result returned. Afterwards graphs that saved the old values refuse to run backward.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            # parameters of one kind, in one place, change together
            alike: defaultdict[Any, list[Slot]] = defaultdict(list)
            narrow: list[Tensor] = []
            for p in group["params"]:
                if p.grad is not None:
                    x, g, state = p._data, p.grad._data, self.state[p]
                    if x.itemsize == 2:
                        wide = master.wanted(p, group)
                        with cuda.working_on(x):
                            g = master.true_gradient(g, self.grad_scale, wide)
                            x = self._masters.of(p, state) if wide else x
                        narrow += [p] * wide
                    kind = x.dtype if type(x) is np.ndarray else (x.dtype, p.device)
                    alike[kind].append((x, g, state))
                    p.mutated()
            for slots in alike.values():
                x = slots[0][0]
                with nullcontext() if type(x) is np.ndarray else cuda.working(f"{type(self).__name__}.step", x):
                    if group.get("maximize"):
                        slots = [(x, np.negative(g, out=np.empty_like(g)), state) for x, g, state in slots]
                    self.update_all(slots, group)
            for p in narrow:
                with cuda.working_on(p._data):
                    self._masters.round(p, self.state[p])
        return loss

    def update_all(self, slots: Sequence[Slot], group: Group) -> None:
        """Change arrays of one type and device in place. An optimizer with a kernel for many does it in one call."""
        for p, g, state in slots:
            self.update(p, g, state, group)

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        """Change the array p in place by its gradient g, which is not to be written to."""
        raise NotImplementedError(f"{type(self).__name__} defines no update()")

    # ---- state
    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {name: array or number}}, "param_groups": [{option: value, …, "params": numbers}]}.

        Parameters are numbered in order. The arrays share memory with the optimizer's: copy what must outlive a step.
        """
        number = {p: i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [{**g, "params": [number[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": {number[p]: dict(s) for p, s in self.state.items() if s}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state, also from one whose keys have become text and whose tuples have become lists (JSON).

        Options are taken over as well. Raises ValueError if groups or shapes differ or the state is that of another
        optimizer, and then nothing has been changed.
        """
        groups = [dict(g) for g in state_dict["param_groups"]]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"the state has groups of {sizes} parameters, this optimizer of {own}")
        numbers = [int(i) for g in groups for i in g["params"]]
        params = dict(zip(numbers, (p for g in self.param_groups for p in g["params"]), strict=True))
        options = {int(i): {**o, **g} for g, o in zip(groups, self.param_groups, strict=True) for i in g["params"]}
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for key, values in state_dict["state"].items():
            if int(key) not in params:
                raise ValueError(
                    f"the state is of parameter {key}, but its groups hold only {_listed(map(str, params))}"
                )
            self._check_names(key, set(values))
            p = params[int(key)]
            dtype = DEFAULT if master.wanted(p, options[int(key)]) else p.dtype
            state[p] = {name: _restored(p, int(key), name, value, dtype) for name, value in values.items()}
        new = [
            {name: _as_before(old.get(name), deepcopy(value)) for name, value in group.items() if name != "params"}
            for group, old in zip(groups, self.param_groups, strict=True)
        ]
        for group in new:
            self.check({**self.defaults, **group})
        for old, group in zip(self.param_groups, new, strict=True):
            old.update(group)
        for p in [p for p in self.state if p not in state]:
            del self.state[p]
        for p, values in state.items():
            _take_over(self.state[p], values)

    def _check_names(self, key: Any, names: set[str]) -> None:
        """Raise ValueError if the state of a parameter cannot be this optimizer's."""
        fits = self.sometimes is None or names <= {*self.always, *self.sometimes, master.NAME}
        if not (fits and names.issuperset(self.always)):
            own = [_listed(self.always)] if self.always else []
            own += [f"at most {_listed(self.sometimes)}"] if self.sometimes else []
            raise ValueError(
                f"the state of parameter {key} holds {_listed(sorted(names)) or 'nothing'}, that of "
                f"{type(self).__name__} {', besides '.join(own) or 'nothing'}: it is the state of another optimizer"
            )

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def _listed(names: Iterable[str]) -> str:
    """a, b and c"""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _as_before(old: Any, value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value


def _restored(p: Tensor, number: int, name: str, value: Any, dtype: np.dtype) -> Any:
    """A loaded piece of state: a number, or an array of its own in this type and the memory order and place of p."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    source = value.data if isinstance(value, Tensor) else value if hasattr(value, "strides") else np.asarray(value)
    if name == "step" and source.size == 1:
        return int(source)
    if source.shape != p.shape:
        raise ValueError(f"{name} of parameter {number} has shape {source.shape} in the state, the parameter {p.shape}")
    with cuda.working_on(p.data):
        array = np.empty_like(p.data, dtype=dtype)
        array[...] = to_device(source, p.device)
    return array


def _take_over(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let a parameter's state become another one; arrays stay where they are, as a captured step knows them there."""
    for name in [name for name in old if name not in new]:
        del old[name]
    for name, value in new.items():
        array = old.get(name)
        if hasattr(value, "strides") and all(
            getattr(array, of, None) == getattr(value, of) for of in ("shape", "dtype", "device")
        ):
            with cuda.working_on(value):
                array[...] = value  # type: ignore[index]
        else:
            old[name] = value


def _number(name: str, value: Any) -> Any:
    """The value of an option. Raises TypeError unless it is one number."""
    if not (isinstance(value, Real) or getattr(value, "shape", None) == ()):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    return value


# ---- for the optimizers
def numbers(p: Any, options: Mapping[str, Any], count: Callable[[], Sequence[float]], cast: bool = False) -> Any:
    """count(): it counts a step, and returns the numbers that follow from the count and the learning rate.

    In a step that is captured as a CUDA graph with the array p they are arrays there, for which count() is called
    before every replay; cast: in p's type, for operations on whole arrays. Raises RuntimeError before a replay if an
    option other than the learning rate has changed.
    """
    if type(p) is np.ndarray or not capture.active():
        return count()
    fixed = _fixed(options)

    def again() -> Sequence[float]:
        for name, value in _fixed(options).items():
            if fixed.get(name) != value:
                raise RuntimeError(
                    f"{name} was {fixed.get(name)} when the step was captured, and is {value} now: of an optimizer's "
                    f"options only the learning rate may change. Capture the step again"
                )
        return count()

    found = capture.numbers(again)
    return [n.astype(p.dtype) for n in found] if cast else found


def _fixed(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("params", "lr", "initial_lr")}


def divided(slots: Sequence[Slot], names: Sequence[str | None]) -> tuple[Any, list[Slot], list[Slot]]:
    """Which parameters a kernel takes, and which are left to NumPy's or CuPy's operations.

    names: state that the kernel reads, None for nothing; what is not there yet it will find as p lies. Returns the
    module with compiled steps for such arrays, kernels/cpu/optimizer.py or that of kernels/cuda, and the two lists.
    """
    kernels = _steps(table.home(type(slots[0][0])))
    taken: list[Slot] = []
    left: list[Slot] = []
    for slot in slots:
        p, g, state = slot
        fits = kernels.covers(p, g, *[None if name is None else state.get(name) for name in names])
        (taken if fits else left).append(slot)
    if taken and not kernels.worth(sum(p.size for p, _, _ in taken)):
        taken, left = [], list(slots)
    return kernels, taken, left


@cache
def _steps(column: str) -> Any:
    return import_module(f"{table.__package__}.{column}.optimizer")


def at_least_zero(group: Group, *names: str) -> None:
    """Check that these options are numbers from 0 on."""
    for name in names:
        if name in group and not _number(name, group[name]) >= 0:
            raise ValueError(f"{name} is {group[name]}; it must not be negative")


def below_one(group: Group, *names: str) -> None:
    """Check that these options (each a number, or several) lie from 0 to less than 1."""
    for name in names:
        values = group[name] if isinstance(group[name], (tuple, list)) else (group[name],)
        if not all(0 <= _number(name, v) < 1 for v in values):
            raise ValueError(f"{name} is {group[name]}; it must be at least 0 and less than 1")


def decayed(g: Any, p: Any, weight_decay: float) -> Any:
    """g + weight_decay · p, the gradient with an L2 penalty; g itself if there is none."""
    if weight_decay == 0:
        return g
    total = np.multiply(p, weight_decay, out=np.empty_like(p))
    total += g
    return total


def average(mean: Any, value: Any, keep: float, scratch: Any) -> None:
    """mean = keep · mean + (1 - keep) · value, in place."""
    mean *= keep
    mean += np.multiply(value, 1 - keep, out=scratch)


def like(p: Any, state: dict[str, Any], name: str, value: float = 0.0) -> Any:
    """state[name], made when it is first asked for: an array like p, full of `value`."""
    if name not in state:
        state[name] = np.full_like(p, value)
    return state[name]
