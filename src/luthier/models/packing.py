"""Whether a model can be packed: measured on the spot, on two short rows, rather than listed.

Axes: T tokens of a packed row, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from luthier.data.branches import lay_out_branches
from luthier.models.attention import PACKED
from luthier.models.modes import evaluating
from luthier.types import Batch

if TYPE_CHECKING:
    from luthier.models.backbone import Backbone


def packing_offset(backbone: Backbone) -> tuple[int | None, str]:
    """The position offset with which two packed rows give the same hidden states as each alone, or None and why."""
    vocabulary = len(backbone.embedding.weight)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocabulary // 2, vocabulary, (n,), generator=generator).to(backbone.device) for n in (5, 9)]
    position_table = _position_padding(backbone.model)
    worst = "this model does not take packed rows"
    with backbone.plain(), evaluating(backbone.model), torch.no_grad():
        with backbone.attention("sdpa"):
            alone = [backbone.trunk(row[None], attention_mask=torch.ones_like(row)[None]) for row in rows]
            expected_TD = torch.cat([output.last_hidden_state[0] for output in alone]).float()
        for offset in sorted({0, position_table}):
            try:
                backbone.position_offset = offset
                with backbone.attention(PACKED):
                    difference = (backbone.hidden(_packed(rows)).float() - expected_TD).abs().max()
            except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
                worst = f"{type(error).__name__}: {error}".split("\n")[0][:160]
                continue
            bound = (
                1e-4 if expected_TD.dtype == next(backbone.model.parameters()).dtype else 5e-2
            ) * expected_TD.abs().max()
            if difference <= bound:
                return offset, ""
            worst = f"packed rows differ from separate ones by {float(difference):.1e}"
    backbone.position_offset = 0
    return None, worst


def sharing_problem(backbone: Backbone) -> str:
    """Why a packed model can't compute the beginning of two sequences once ("" where it can): measured likewise."""
    vocabulary = len(backbone.embedding.weight)
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randint(vocabulary // 2, vocabulary, (n,), generator=generator).tolist() for n in (7, 3, 6))
    ways = [lay_out_branches(rows) for rows in ([[a + b], [a + c]], [[a + b, a + c]])]
    found = []
    try:
        with backbone.plain(), evaluating(backbone.model), torch.no_grad(), backbone.attention(PACKED):
            for tensors, places in ways:
                batch = Batch({name: tensor.to(backbone.device) for name, tensor in tensors.items()}, [0, 1])
                hidden_TD = backbone.hidden(batch).float()
                found.append(torch.cat([hidden_TD[told] for told in places]))
    except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {error}".split("\n")[0][:160]
    exact = next(backbone.model.parameters()).dtype in (torch.float32, torch.float64)
    difference, largest = (found[0] - found[1]).abs().max(), found[0].abs().max()
    return "" if difference <= (1e-4 if exact else 5e-2) * largest else f"answers differ by {float(difference):.1e}"


def _packed(rows: list[Tensor]) -> Batch:
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    boundaries = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    positions = torch.cat([torch.arange(len(row), device=row.device) for row in rows])
    tensors = {"input_ids": torch.cat(rows)[None], "position_ids": positions[None], "cu_seq_lens": boundaries}
    return Batch(tensors, list(range(len(rows))))


def _position_padding(model: PreTrainedModel) -> int:
    """Models whose position table has a padding row count positions from the one after it."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def layout_inputs(batch: Batch, offset: int, shift: int) -> dict[str, Any]:
    """What a trunk is told of how rows are laid out: boundaries or mask, and positions that count from ``offset``,
    ``shift`` further where something stands before each row."""
    if "cu_seq_lens" in batch.tensors:
        boundaries = batch["cu_seq_lens"]
        longest = int((boundaries[1:] - boundaries[:-1]).max())
        inputs = {"position_ids": batch["position_ids"] + offset + shift}
        inputs |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
        if "begins" in batch.tensors and bool((batch["begins"] >= 0).any()):
            inputs["begins"] = batch["begins"]
        return inputs | {"max_length_q": longest, "max_length_k": longest}
    inputs = {"attention_mask": batch["attention_mask"]}
    if "position_ids" in batch.tensors:
        inputs["position_ids"] = batch["position_ids"] + offset + shift
    elif shift:
        columns = torch.arange(inputs["attention_mask"].shape[1], device=inputs["attention_mask"].device)
        inputs["position_ids"] = columns[None] + shift
    return inputs


def ends_of(batch: Batch) -> Tensor:
    """(S,) where the last real token of each sequence lies."""
    return batch["ends"] if "ends" in batch.tensors else batch["starts"] + batch["lengths"] - 1


def laid_out_by_row(hidden_TD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(K, L, D) and a mask (K, L): hidden states laid out row by row."""
    starts_K, lengths_K = batch["starts"], batch["lengths"]
    positions_L = torch.arange(int(lengths_K.max()), device=hidden_TD.device)
    real_KL = positions_L < lengths_K[:, None]
    at_KL = torch.where(real_KL, starts_K[:, None] + positions_L, starts_K[:, None])
    return hidden_TD[at_KL], real_KL.long()


def by_length(lengths_K: Tensor, run: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What ``run(rows, length)`` makes of the rows of each length, put back in their order: (K, ...)."""
    groups = [(int(length), (lengths_K == length).nonzero()[:, 0]) for length in lengths_K.unique()]
    made = torch.cat([run(at, length) for length, at in groups])
    return made[torch.cat([at for _, at in groups]).argsort()]
