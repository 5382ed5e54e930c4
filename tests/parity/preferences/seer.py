"""The model of the recorded preferences about pictures: a small LLaVA whose numbers are drawn name by name, whatever
the versions, its processor, and pictures of its own size, of which nothing is resized."""

from __future__ import annotations

import io
from typing import Any

import small
import torch
import transformers as t

import tiny

SIDE, PATCH = 16, 8
MARK = "<image>"
SEES: dict[str, Any] = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "image_size": SIDE,
    "patch_size": PATCH,
}  # fmt: skip


def processor() -> Any:
    words = tiny.tokenizer(encoder=False)
    words.add_special_tokens({"additional_special_tokens": [MARK]}, replace_extra_special_tokens=False)
    side = {"height": SIDE, "width": SIDE}
    return t.LlavaProcessor(
        t.CLIPImageProcessor(size=side, do_center_crop=False), words, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def build(seed: int) -> Any:
    words = processor().tokenizer
    text = t.LlamaConfig(**small.SIZES)
    made = t.AutoModelForImageTextToText.from_config(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**SEES), text_config=text, vision_feature_layer=-1,
            image_token_id=words.convert_tokens_to_ids(MARK),
        )
    )  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.4 + float("norm" in name))
    return made.eval()


def picture(number: int) -> bytes:
    """As a PNG: what a generator draws."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()
