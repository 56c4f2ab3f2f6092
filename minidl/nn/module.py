"""Module: parameters, buffers and submodules under one roof, found by their attribute names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from ..core import cuda
from ..core.dtypes import as_dtype
from ..core.tensor import RemovableHandle, Tensor, to_device
from ..functional.creation import zeros_like
from ..kernels.arrays import is_bfloat16, is_floating
from .parameter import Buffer, Parameter, rebind

_TABLES = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "module"}


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not find, and what it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """The base of all layers and networks.

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(784, 100)
                self.out = nn.Linear(100, 10)

            def forward(self, x):
                return self.out(self.hidden(x).relu())

    Parameters, buffers and modules assigned to attributes are registered; `parameters()`, `state_dict()`, `to()` and
    the rest find them, at any depth. A parameter or module assigned to several attributes is one and the same (tied
    weights). Calling a module calls `forward` and its hooks. `training` says in which of its two modes it is.
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _forward_pre_hooks: dict[int, Callable]
    _forward_hooks: dict[int, Callable]
    _transient: set[str]  # the names of buffers that are not part of the state_dict

    def __init__(self) -> None:
        set_plainly = super().__setattr__  # registers nothing
        set_plainly("training", True)
        set_plainly("_parameters", {})
        set_plainly("_buffers", {})
        set_plainly("_modules", {})
        set_plainly("_transient", set())
        set_plainly("_forward_pre_hooks", {})
        set_plainly("_forward_hooks", {})

    # ---- attributes
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._register("_parameters", name, value)
        elif isinstance(value, Module):
            self._register("_modules", name, value)
        elif isinstance(value, Buffer):
            self._register("_buffers", name, value)
            if not value.persistent:
                self._transient.add(name)
        else:
            for table, kind in _TABLES.items():
                registered = self.__dict__.get(table, ())
                if name in registered:
                    if value is not None and not (kind == "buffer" and isinstance(value, Tensor)):
                        wanted = {"parameter": "a Parameter", "buffer": "a Tensor", "module": "a Module"}[kind]
                        raise TypeError(
                            f"{type(self).__name__}.{name} is a {kind}: assign {wanted} or None, not a "
                            f"{type(value).__name__} (or delete it first)"
                        )
                    registered[name] = value
                    return
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:  # only called for names that are no ordinary attributes
        for table in _TABLES:
            registered = self.__dict__.get(table, ())
            if name in registered:
                return registered[name]
        hint = "" if "_parameters" in self.__dict__ else ", and its __init__ has not called super().__init__()"
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)

    def __delattr__(self, name: str) -> None:
        for table in _TABLES:
            if name in self.__dict__.get(table, ()):
                del self.__dict__[table][name]
                self._transient.discard(name)
                return
        super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for table in _TABLES for name in self.__dict__.get(table, ()))})

    def _register(self, table: str, name: str, value: Any) -> None:
        kind = _TABLES[table]
        if table not in self.__dict__:
            raise AttributeError(
                f"cannot assign {kind} {name!r}: call super().__init__() first in {type(self).__name__}.__init__"
            )
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a {kind} needs a name without dots, not {name!r}")
        for other in _TABLES:  # whatever had this name gives way to the new one
            if other != table:
                self.__dict__[other].pop(name, None)
        self.__dict__.pop(name, None)
        self._transient.discard(name)
        self.__dict__[table][name] = value

    def _register_new(self, table: str, name: str, value: Any) -> None:
        if name not in self.__dict__.get(table, ()) and hasattr(self, name):
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already")
        self._register(table, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register a parameter, or with None the place where one may come. Assigning it to an attribute does the
        same."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"parameter {name!r} must be a Parameter or None, not a {type(param).__name__}")
        self._register_new("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that belongs to the state but is not trained; not persistent ones stay out of
        state_dict()."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"buffer {name!r} must be a Tensor or None, not a {type(tensor).__name__}")
        self._register_new("_buffers", name, tensor)
        if not persistent:
            self._transient.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a submodule. Assigning it to an attribute does the same."""
        if module is not None and not isinstance(module, Module):
            hint = f" (write {module.__name__}(…) to make one)" if isinstance(module, type) else ""
            raise TypeError(f"submodule {name!r} must be a Module or None, not {_kind(module)}{hint}")
        self._register_new("_modules", name, module)

    # ---- calling
    def _no_forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    forward: Callable[..., Any] = _no_forward  # a method of any signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for hook in tuple(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns (if not None) replaces the positional arguments."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; what it returns (if not None) replaces the output."""
        return RemovableHandle(self._forward_hooks, hook)

    # ---- what is inside
    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module (named by `prefix`) and all below it, parents first, with dotted names."""
        yield from self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, prefix: str, seen: set[Module] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if self in seen:
                return
            seen.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, parents first."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        return (module for _, module in self.named_children())

    def _named(self, table: str, prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in getattr(module, table).items():
                if value is not None and not (remove_duplicate and value in seen):
                    seen.add(value)
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """The parameters with dotted names, each once."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once; what an optimizer is given."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers with dotted names, each once, those included that are not persistent."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module of this dotted name; "" is this one."""
        module = self
        for part in target.split(".") if target else ():
            found = module._modules.get(part)
            if found is None:
                raise AttributeError(f"{type(module).__name__} has no submodule {part!r} (looking for {target!r})")
            module = found
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of this dotted name."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found = module._parameters.get(name)
        if found is None:
            raise AttributeError(f"{type(module).__name__} has no parameter {name!r} (looking for {target!r})")
        return found

    # ---- changing all of it
    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn(module)` for every module below this one and then for this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, or with False evaluation mode, here and below: batch norm and dropout behave accordingly."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say whether the parameters get gradients; False freezes them."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or with False set them to 0."""
        for p in self.parameters():
            if p.grad is not None:  # it may share its memory, so it is never written to
                p.grad = None if set_to_none else zeros_like(p.grad)

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move everything to a device, convert what is floating-point to a type, or both, in place.

        to("cuda"), to("float64"), to("cuda:1", "float16"), to(tensor), or by keyword. The parameters stay the same
        objects; their gradients go along. An optimizer that has already made state for them does not follow: make it
        afterwards.
        """
        for arg in args:
            if isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif isinstance(arg, str) and arg.partition(":")[0] in ("cpu", "cuda"):
                device = arg
            elif arg is not None:
                dtype = arg
        kind = None if dtype is None else as_dtype(dtype)
        if kind is not None and not is_floating(kind):
            raise TypeError(f"a module can only be converted to a floating-point type, not to {kind}")

        def convert(array: Any) -> Any:
            if kind is not None and is_floating(array.dtype):
                with cuda.working_on(array):
                    array = array.astype(kind, copy=False)
            return array if device is None else to_device(array, device)

        for x in itertools.chain(self.parameters(), self.buffers()):
            rebind(x, convert(x._data))
            if x.grad is not None:
                x.grad = Tensor(convert(x.grad._data))
        return self

    def double(self) -> Self:
        """Everything floating-point as float64."""
        return self.to(dtype="float64")

    def float(self) -> Self:
        """Everything floating-point as float32."""
        return self.to(dtype="float32")

    def half(self) -> Self:
        """Everything floating-point as float16."""
        return self.to(dtype="float16")

    def bfloat16(self) -> Self:
        """Everything floating-point as bfloat16."""
        return self.to(dtype="bfloat16")

    def cpu(self) -> Self:
        """Everything in the host's memory."""
        return self.to(device="cpu")

    def cuda(self, device: int | None = None) -> Self:
        """Everything on the current CUDA device, or on the one of this number."""
        return self.to(device="cuda" if device is None else f"cuda:{device}")

    # ---- state
    def state_dict(self, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """All parameters and persistent buffers by their dotted names.

        The tensors share the module's memory and are outside any graph; copy what must outlive the next optimizer step.
        keep_vars gives the parameters and buffers themselves.
        """
        state: dict[str, Any] = {}
        for path, module in self.named_modules(prefix.rstrip("."), remove_duplicate=False):
            kept = {name: b for name, b in module._buffers.items() if name not in module._transient}
            for name, value in {**module._parameters, **kept}.items():
                if value is not None:
                    state[f"{path}.{name}" if path else name] = value if keep_vars else value.detach()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the parameters and persistent buffers, in place and converted to their types and devices.

        state_dict: names to tensors or arrays (NumPy's, or anything NumPy can read). strict: names that are missing
        here or there are an error; otherwise they are only reported. Wrong shapes are always an error. The one
        RuntimeError lists everything that does not fit, and then nothing has been changed.
        """
        own = self.state_dict(keep_vars=True)
        given = {name: _as_array(name, value) for name, value in state_dict.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        pairs = {name: (own[name], given[name]) for name in own if name in given}
        wrong = [f"{n}: given {v.shape}, here {x.shape}" for n, (x, v) in pairs.items() if v.shape != x.shape]
        problems = {
            "missing": [f"{name} {own[name].shape}" for name in missing] if strict else [],
            "unexpected": [f"{name} {given[name].shape}" for name in unexpected] if strict else [],
            "of the wrong shape": wrong,
        }
        if any(problems.values()):
            lines = [f"\n  {len(found)} {what}: " + "; ".join(found) for what, found in problems.items() if found]
            raise RuntimeError(f"this state does not fit {type(self).__name__}:{''.join(lines)}")
        for target, array in pairs.values():
            with cuda.working_on(target._data):
                target._data[...] = to_device(array, target.device)
            target.mutated()
        return IncompatibleKeys(missing, unexpected)

    # ---- text
    def extra_repr(self) -> str:
        """What stands between the brackets of the module's line in its repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        if not self._modules:
            return f"{type(self).__name__}({extra})"
        inner = [extra] if extra else []
        inner += [f"({name}): {module!r}" for name, module in self._modules.items()]
        body = "\n".join(inner).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {body}\n)"


def _as_array(name: str, value: Any) -> Any:
    array = value._data if isinstance(value, Tensor) else value if hasattr(value, "strides") else np.asarray(value)
    if array.dtype.kind not in "buif" and not is_bfloat16(array.dtype):
        raise TypeError(f"state_dict[{name!r}] holds {array.dtype} ({_kind(value)}), which is no tensor of numbers")
    return array


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
