"""The gradient of a loss that couples the rows of a batch, in the memory of one micro-batch (gradient caching).

Gao et al. 2021 (Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983), section
3.3. Pass 1 gives every row's vectors, micro-batch by micro-batch, without a graph. The loss over the rows of ALL
processes, on these vectors, gives ∂L/∂v. Pass 2 repeats each micro-batch with its graph, under the same seed, and
propagates the cached ∂L/∂v: the chain rule, split at the vectors. The price is a second forward pass, and where one
micro-batch holds all there is none.

What an objective with ``couples = True`` has: ``vectors(backbone, batch) -> (U, D)`` fp32, the vectors of a batch's
rows in the rows' order, as many for each row as it likes (a query and its passages, a picture and its caption);
``coupled_loss(vectors_UD, rows) -> LossTerms`` of all of them, whatever they were made from; ``parameters``, by name,
those that it has itself (a temperature), or none; ``settle(outputs, rows)``: see ``runs/predictor.py``.

Axes: U vectors, D their width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from luthier.engine.parallel import Processes
from luthier.engine.precision import autocast
from luthier.models.backbone import Backbone
from luthier.types import Batch, Features, LossTerms

Group = tuple[int, list[int]]


@runtime_checkable
class Owns(Protocol):
    """An objective that has parameters itself: a temperature, the head of a value model."""

    parameters: dict[str, nn.Parameter]


def own_parameters(objective: Any) -> dict[str, nn.Parameter]:
    """The parameters of the objective itself."""
    return objective.parameters if isinstance(objective, Owns) else {}


def in_one_go(backbone: Backbone, objective: Any, rows: list[Features], batch: Batch, precision: str) -> LossTerms:
    """The loss of rows that are one batch, with its graph."""
    with autocast(precision, backbone.device):
        vectors_UD = objective.vectors(backbone, batch)
    return objective.coupled_loss(vectors_UD, rows)


def coupled_gradient(
    backbone: Backbone,
    objective: Any,
    rows: list[Features],
    groups: list[list[int]],
    seed: Callable[[int], None],
    precision: str,
    processes: Processes,
    out_of_memory: Callable[[BaseException], bool],
) -> tuple[LossTerms, int, list[int]]:
    """Leave the gradient in ``.grad``: of the model this process's share, of the objective the main process's.

    Returns the loss (on the main process; 0 on the others, so that sums over processes count it once), this process's
    tokens, and the rows to name if the loss is not finite. ``seed(i)`` is set before micro-batch i, in both passes.
    """
    mine = processes.share(groups)
    if processes.world == 1 and len(groups) == 1:
        ordered = [rows[i] for i in groups[0]]
        batch = objective.collate(ordered).to(backbone.device)
        seed(0)
        terms = in_one_go(backbone, objective, ordered, batch, precision)
        if terms.total.requires_grad:
            terms.total.backward()
        return _detached(terms), batch.tokens, batch.rows

    parts, tokens = _first_pass(backbone, objective, rows, mine, seed, precision, processes, out_of_memory)
    gathered_UD, start = processes.gather_vectors(torch.cat(parts) if parts else None)
    leaf_UD = gathered_UD.detach().requires_grad_()
    # In the order in which the vectors come: by process, then by micro-batch.
    ordered = [rows[i] for rank in range(processes.world) for group in groups[rank :: processes.world] for i in group]
    terms = objective.coupled_loss(leaf_UD, ordered)
    own = [p for p in own_parameters(objective).values() if p.requires_grad]
    grad_UD, *own_grads = torch.autograd.grad(terms.total, [leaf_UD, *own], allow_unused=True)

    counts = [len(part) for part in parts]
    for (index, group), grad in zip(mine, grad_UD[start : start + sum(counts)].split(counts), strict=True):
        batch = objective.collate([rows[i] for i in group]).to(backbone.device)
        seed(index)
        with autocast(precision, backbone.device):
            vectors_UD = objective.vectors(backbone, batch)
        if vectors_UD.requires_grad:
            vectors_UD.backward(grad)
    bad = [rows[i]["row"] for (_, group), part in zip(mine, parts, strict=True)
           for i in group if not bool(torch.isfinite(part).all())]  # fmt: skip
    if not processes.main:  # its loss is the same, and would count twice; times 0 what is not finite stays so
        return LossTerms(terms.total.detach() * 0, 0.0), tokens, bad
    for parameter, grad in zip(own, own_grads, strict=True):
        parameter.grad = grad
    return _detached(terms), tokens, bad


def _first_pass(
    backbone: Backbone, objective: Any, rows: list[Features], mine: list[Group], seed: Callable[[int], None],
    precision: str, processes: Processes, out_of_memory: Callable[[BaseException], bool],
) -> tuple[list[Tensor], int]:  # fmt: skip
    """The vectors of each micro-batch of this process, without a graph, and how many tokens they were made from.

    Where one process runs out of memory all say so: none waits in the gathering for one that will not come.
    """
    parts: list[Tensor] = []
    tokens, failed = 0, False
    try:
        for index, group in mine:
            batch = objective.collate([rows[i] for i in group]).to(backbone.device)
            seed(index)
            with torch.no_grad(), autocast(precision, backbone.device):
                parts.append(objective.vectors(backbone, batch))
            tokens += batch.tokens
    except Exception as error:
        if not out_of_memory(error):
            raise
        failed = True
    if any(processes.sum(float(failed))):
        raise MemoryError("a process ran out of memory")
    return parts, tokens


def _detached(terms: LossTerms) -> LossTerms:
    return LossTerms(terms.total.detach(), terms.count, terms.report)
