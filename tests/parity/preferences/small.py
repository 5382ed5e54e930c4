"""The model of the recorded preferences: a small Llama whose numbers are drawn name by name, whatever the versions."""

from __future__ import annotations

from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 4, "intermediate_size": 12, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def build(seed: int, *, scores: bool = False) -> Any:
    """One that writes, or one with a head of one score."""
    auto = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    made = auto.from_config(transformers.LlamaConfig(**SIZES, **({"num_labels": 1} if scores else {})))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(made.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.4 + float("norm" in name))
    return made.eval()
