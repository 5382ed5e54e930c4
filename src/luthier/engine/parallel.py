"""The processes of a run, as accelerate finds them (one, or those that torchrun or `accelerate launch` started).

Gradients are summed over processes once a step, after the last micro-batch, and divided by the global count by the
loop; so the number of processes never changes the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Processes:
    """Who am I among how many, on which device, and sums over all."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # Without cpu=True, accelerate takes a launched group of CPU processes for independent ones.
        state = PartialState(cpu=not torch.cuda.is_available())
        self.rank, self.world, self.device = state.process_index, state.num_processes, state.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: list[list[int]]) -> list[tuple[int, list[int]]]:
        """This process's (index, item) pairs: every ``world``-th, so a deal from long to short stays even."""
        return [(i, item) for i, item in enumerate(items) if i % self.world == self.rank]

    def deal(self, rows: int) -> list[list[int]]:
        """One share of so many rows for each process, which is empty where there are fewer rows than processes."""
        return [list(range(rank, rows, self.world)) for rank in range(self.world)]

    def sum(self, *values: float) -> list[float]:
        """Sums of numbers over all processes, in double precision."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over processes, one flat buffer at a time; a missing gradient counts as zeros."""
        if self.world == 1:
            return
        grads: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        flat = torch._utils._flatten_dense_tensors(grads)
        dist.all_reduce(flat)
        for grad, summed in zip(grads, torch._utils._unflatten_dense_tensors(flat, grads), strict=True):
            grad.copy_(summed)

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in rank order, on every process."""
        if self.world == 1:
            return items
        parts: list[list[Any]] = [[] for _ in range(self.world)]
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def gather_vectors(self, vectors_UD: Tensor | None) -> tuple[Tensor, int]:
        """The vectors of all processes, in rank order, on every process, and where this one's begin among them.

        A process without any gives None; the gradient does not flow through.
        """
        if self.world == 1:
            assert vectors_UD is not None
            return vectors_UD, 0
        shape = torch.tensor([0, 0] if vectors_UD is None else list(vectors_UD.shape), device=self.device)
        shapes = [torch.empty_like(shape) for _ in range(self.world)]
        dist.all_gather(shapes, shape)
        counts, width = [int(found[0]) for found in shapes], max(int(found[1]) for found in shapes)
        padded_UD = torch.zeros(max(counts), width, device=self.device)
        if vectors_UD is not None:
            padded_UD[: len(vectors_UD)] = vectors_UD
        parts = [torch.empty_like(padded_UD) for _ in range(self.world)]
        dist.all_gather(parts, padded_UD)
        found_UD = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return found_UD, sum(counts[: self.rank])

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def agree(self, text: str) -> str:
        """The main process's word, on every process."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]
