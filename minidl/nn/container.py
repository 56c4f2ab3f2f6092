"""Modules made of modules: in a row, in a list, in a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, Self, overload

from .module import Module


class _Row(Module):
    """Submodules named "0", "1", … that can be used like a list."""

    def _key(self, index: int) -> str:
        """The name of the submodule at this position."""
        try:
            position = index.__index__()
        except AttributeError:
            raise TypeError(f"{type(self).__name__} is indexed by whole numbers and slices, not {index!r}") from None
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {position} is out of range for a {type(self).__name__} of {len(self)} modules")
        return list(self._modules)[position]

    def _refill(self, modules: Iterable[Any]) -> None:
        """These modules and no others, numbered from 0."""
        modules = list(modules)
        self._modules.clear()
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._modules.values()))

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        remaining = list(self)
        if not isinstance(index, slice):
            self._key(index)
        del remaining[index]
        self._refill(remaining)

    def append(self, module: Module) -> Self:
        """Add a module at the end, under the next number that no other has: names may have gaps."""
        self.add_module(next(name for name in map(str, count(len(self))) if name not in self._modules), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module in front of position `index`."""
        modules = list(self)
        modules.insert(index, module)
        self._refill(modules)
        return self


class Sequential(_Row):
    """Modules applied one after the other: each one's output is the next one's input.

    Sequential(first, second, …), named "0", "1", …, or Sequential({"name": module, …}). Indexing gives a module,
    slicing a Sequential of the same modules under the same names.
    """

    def __init__(self, *args: Any):
        super().__init__()
        named = args[0] if len(args) == 1 and isinstance(args[0], Mapping) else {str(i): m for i, m in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[self._key(index)]

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class ModuleList(_Row):
    """A list of modules, all of which are registered. It has no forward: say in a loop what to do with them."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Any:
        return ModuleList(list(self)[index]) if isinstance(index, slice) else self._modules[self._key(index)]


class ModuleDict(Module):
    """A dict of modules, all of which are registered; the order is that of insertion. It has no forward."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        super().__init__()
        self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def values(self) -> Iterable[Any]:
        """The modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and modules."""
        return self._modules.items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace modules."""
        for key, module in dict(modules).items():
            self[key] = module

    def pop(self, key: str) -> Any:
        """Take a module out."""
        return self._modules.pop(key)

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()
