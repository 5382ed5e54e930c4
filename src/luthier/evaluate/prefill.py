"""Prompts that are asked several times are read once: their keys and values are then everybody's.

Axes: K rows, U different ones, L columns.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.joined.writer import CACHE
from luthier.types import Features


def first_asked(rows: list[Features]) -> tuple[list[int], list[int]]:
    """The places of rows that are no repetition of their neighbour, and for each row which of these it repeats."""
    firsts: list[int] = []
    which: list[int] = []
    for at, row in enumerate(rows):
        if not firsts or row != rows[firsts[-1]]:
            firsts.append(at)
        which.append(len(firsts) - 1)
    return firsts, which


def prefilled(backbone: Backbone, rows: list[Features], inputs: dict[str, Tensor], pad: int) -> dict[str, Any]:
    """What ``generate`` takes for rows padded on the left; where most of them repeat their neighbour, with the keys and
    values of all but the last column, computed once for each different row. Nothing is drawn meanwhile.

    What a decoder sees beside its tokens at each step (virtual tokens, a prefix, pictures beside the row) and caches
    of other kinds than keys and values leave everything as it came.
    """
    firsts, which = first_asked(rows)
    if len(firsts) > len(rows) // 2 or not _able(backbone, rows, inputs):
        return inputs
    some, at_U = [rows[at] for at in firsts], torch.tensor(firsts, device=backbone.device)
    config = backbone.model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=config)
    if not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return inputs
    media = {name: tensor.to(backbone.device) for name, tensor in backbone.row_media(some).items()}
    cast(Any, backbone.model).generate(
        input_ids=inputs["input_ids"][at_U, :-1], attention_mask=inputs["attention_mask"][at_U, :-1], **media,
        **{CACHE: cache}, max_new_tokens=1, do_sample=False, num_beams=1, pad_token_id=pad,
    )  # fmt: skip
    cache.batch_select_indices(torch.tensor(which, device=backbone.device))
    return {name: inputs[name] for name in ("input_ids", "attention_mask")} | {CACHE: cache}


def _able(backbone: Backbone, rows: list[Features], inputs: dict[str, Tensor]) -> bool:
    if backbone.encoder_decoder or "input_ids" not in inputs or "position_ids" in inputs:
        return False
    if any(len(row["input_ids"]) < 2 for row in rows):
        return False
    if not any(row.get("pictures") for row in rows):
        return True
    # Its last token is read again, without the pictures.
    in_row = isinstance(backbone, MultimodalBackbone) and backbone.in_row
    return in_row and all(row["input_ids"][-1] != cast(MultimodalBackbone, backbone).image_id for row in rows)
