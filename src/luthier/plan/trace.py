"""A run carried out on fake tensors: every allocation and release in order, FLOPs and bytes moved, and no numbers.

The mode sees each operation of forward, backward and optimizer just below autograd. Operations on fake tensors are
answered by shape alone; those on real ones (indices, lengths, boundaries of rows) are computed, so that code which
reads them (``.tolist()``, ``nonzero``) goes on as it would. A number read from a fake tensor is 1.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

TEMPORARY = "temporary"
LARGE = 2**14
"""Bytes from which a real tensor that a model is given, such as a batch of pictures, counts as memory."""
DEVICE = torch.ops.prim.device.default
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default}


@dataclass
class Work:
    """What a stretch of a run computes: FLOPs of matrix products, bytes that other operations move, calls."""

    flops: float = 0.0
    moved: float = 0.0
    calls: int = 0


@dataclass
class Phase:
    """A stretch of the run: events ``first`` to ``last`` (exclusive), and its work."""

    name: str
    first: int
    last: int = 0
    work: Work = field(default_factory=Work)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Values, and those of lists and tuples among them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _places(indices: Any) -> list[Any]:
    """Of masks, which are known, the places: how many an operation by mask gives is no shape."""
    return [
        place
        for one in indices
        for place in (one.nonzero().unbind(1) if one is not None and one.dtype == torch.bool else (one,))
    ]


class Trace(TorchDispatchMode):
    """``events`` holds (storage, bytes) per allocation and (storage, -bytes) per release; ``part`` names storages."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.events: list[tuple[int, int]] = []
        self.part: dict[int, str] = {}
        self.borrowed: set[int] = set()  # storages outside torch
        self.phases: list[Phase] = []
        self.graphless: set[int] = set()  # storages made where no autograd graph is kept
        self.work = Work()
        self.vocabulary = 0
        self._live: dict[int, tuple[int, Any]] = {}  # address of a storage: (its number here, a weak reference)
        self._count = 0
        self._graphless = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked many times for each operation that is one
        kwargs = kwargs or {}
        given = [x for x in (*_flat(args), *_flat(kwargs.values())) if isinstance(x, Tensor)]
        fakes = sum(isinstance(x, FakeTensor) for x in given)
        if not fakes:
            return func(*args, **kwargs)
        if func in READS:
            return (args[0].dtype.is_floating_point and 1.0) or 1
        if fakes < len(given):
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], _places(args[1]))
            args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        with self.fake:
            out = func(*args, **kwargs)
        made = [x for x in _flat((out,)) if isinstance(x, FakeTensor)]
        new = [number for x in made if (number := self.note(x)) is not None]
        self._label(func, given, made, new)
        self._reckon(func, args, kwargs, out, given, made, new)
        return out

    def _faked(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor.is_floating_point() and tensor.nbytes >= LARGE:
            self.note(tensor)  # autograd keeps the real one
        return self.fake.from_tensor(tensor)

    def note(self, tensor: Tensor, part: str = TEMPORARY) -> int | None:
        """The number of a storage seen for the first time, else None."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._live:
            return None
        self._count += 1
        number, size = self._count, max(1, storage.nbytes())
        self.events.append((number, size))
        self.part[number] = part
        if self._graphless:
            self.graphless.add(number)

        def gone(_: Any) -> None:
            self.events.append((number, -size))
            del self._live[address]

        self._live[address] = (number, weakref.ref(storage, gone))
        return number

    def name(self, part: str, tensors: Iterable[Any]) -> None:
        """Say what these tensors are."""
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                self.note(tensor, part)
                self.part[self._live[tensor.untyped_storage()._cdata][0]] = part

    def name_rest(self, part: str) -> None:
        """Everything that is alive and has no name yet is ``part``."""
        for number, _ in self._live.values():
            if self.part[number] == TEMPORARY:
                self.part[number] = part

    def _label(self, func: Any, given: list[Tensor], made: list[FakeTensor], new: list[int]) -> None:
        """Logits are told by their last axis; a copy of weights in another format is weights too."""
        if not new:
            return
        wide = made[0].ndim >= 2 and self.vocabulary and made[0].shape[-1] == self.vocabulary
        copied = func is torch.ops.aten._to_copy.default and self.part_of(given[0]) == "weights"
        if wide or copied:
            self.part[new[0]] = "logits" if wide else "weights"

    def part_of(self, tensor: Tensor) -> str:
        found = self._live.get(tensor.untyped_storage()._cdata)
        return self.part[found[0]] if found else ""

    def _reckon(
        self, func: Any, args: Any, kwargs: Any, out: Any, given: list[Tensor], made: list[FakeTensor], new: list[int]
    ) -> None:
        formula = flop_registry.get(func._overloadpacket)
        self.work.calls += 1
        if formula is not None:
            self.work.flops += formula(*args, **kwargs, out_val=out)
        elif new or func._schema.is_mutable:
            self.work.moved += sum(x.numel() * x.element_size() for x in (*given, *made))

    @contextmanager
    def phase(self, name: str, *, graph: bool = True) -> Iterator[Phase]:
        """A named stretch of the run; ``graph``: autograd keeps one."""
        before, self.work, self._graphless = self.work, Work(), not graph
        phase = Phase(name, len(self.events))
        try:
            yield phase
        finally:
            phase.last, phase.work = len(self.events), self.work
            self.phases.append(phase)
            self.work, self._graphless = before, False

    @contextmanager
    def aside(self) -> Iterator[Work]:
        """Work inside is counted apart, in what this yields; its events belong to the phase around it."""
        before, self.work = self.work, Work()
        try:
            yield self.work
        finally:
            self.work = before

    def repeat(self, name: str) -> None:
        """The last phase of this name once more: what it made and released, in the same order."""
        for phase in [phase for phase in self.phases if phase.name == name][-1:]:
            events = self.events[phase.first : phase.last]
            born = {number for number, size in events if size >= 0}
            died = {number for number, size in events if size < 0}
            again = Phase(name, len(self.events), work=phase.work)
            fresh: dict[int, int] = {}
            for number, size in events:
                if number in born and number in died:
                    if number not in fresh:
                        self._count += 1
                        fresh[number] = self._count
                        self.part[self._count] = self.part[number]
                        if number in self.graphless:
                            self.graphless.add(self._count)
                    self.events.append((fresh[number], size))
            again.last = len(self.events)
            self.phases.append(again)

    def borrow(self, sizes: Iterable[int], part: str = TEMPORARY) -> list[tuple[int, int]]:
        """Allocations outside torch, such as bytes to be written; give them to ``give_back``."""
        taken = []
        for size in filter(None, sizes):
            self._count += 1
            self.part[self._count] = part
            self.borrowed.add(self._count)
            self.events.append((self._count, size))
            taken.append((self._count, size))
        return taken

    def give_back(self, taken: list[tuple[int, int]]) -> None:
        self.events += [(number, -size) for number, size in taken]
