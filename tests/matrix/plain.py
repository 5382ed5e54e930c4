"""A run's final model opened with transformers and PEFT alone: nothing of the package under test is imported here.

Axes: L tokens of a target, T tokens of a row, V vocabulary, C classes, D hidden width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor


def open_model(final: Path, base: str, *, head: str = "") -> Any:
    """``from_pretrained`` of a whole model, or of the base and then the adapter. ``head``: of the auto class."""
    two_stacks = transformers.AutoConfig.from_pretrained(final).is_encoder_decoder
    writes = transformers.AutoModelForSeq2SeqLM if two_stacks else transformers.AutoModelForCausalLM
    heads = {
        "none": transformers.AutoModel,
        "sequence": transformers.AutoModelForSequenceClassification,
        "tokens": transformers.AutoModelForTokenClassification,
    }
    auto = heads.get(head, writes)
    if not (final / "adapter_config.json").is_file():
        return auto.from_pretrained(final).eval()
    labels = {"num_labels": transformers.AutoConfig.from_pretrained(final).num_labels} if head else {}
    model = auto.from_pretrained(base, **labels)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = transformers.AutoTokenizer.from_pretrained(final).pad_token_id
    return PeftModel.from_pretrained(model, str(final)).eval()


@torch.no_grad()
def logits(model: Any, ids: list[int], target: list[int] | None = None) -> Tensor:
    """One row alone, no padding: (C,) of a classifier, (T, V) of a language model, (L, V) where a target is given."""
    inputs = torch.tensor([ids])
    if target is None:
        return model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0]
    # Not `labels`: PEFT's AdaLoRA adds its penalty to a loss, and fails where it is opened to be used.
    shifted = model.prepare_decoder_input_ids_from_labels(torch.tensor([target]))
    return model(input_ids=inputs, attention_mask=torch.ones_like(inputs), decoder_input_ids=shifted).logits[0]


@torch.no_grad()
def vector(model: Any, ids: list[int], pooling: str) -> Tensor:
    """(D,) of length 1: of one text alone, no padding."""
    inputs = torch.tensor([ids])
    hidden_TD = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden_TD.mean(0) if pooling == "mean" else hidden_TD[-1], dim=0)


@torch.no_grad()
def features(final: Path, base: str, ids: list[int]) -> Tensor:
    """(C,): what the saved classifier gives for one row, from its tensors by hand."""
    settings = json.loads((final / "features.json").read_text(encoding="utf-8"))
    tensors = load_file(final / "features.safetensors")
    trunk = transformers.AutoModel.from_pretrained(base).eval()
    trunk = trunk.get_encoder() if trunk.config.is_encoder_decoder else trunk
    hidden_TD = trunk(input_ids=torch.tensor([ids])).last_hidden_state[0]
    x_D = {"mean": hidden_TD.mean(0), "first": hidden_TD[0], "last": hidden_TD[-1]}[settings["pooling"]]
    if "vectors" in tensors:
        nearest = (tensors["vectors"] - x_D).norm(dim=1).argsort()[: settings["neighbours"]]
        share_C = tensors["targets"][nearest].mean(0)
        if settings["kind"] == "number":
            return share_C
        share_C = share_C.clamp(1e-6, 1 - 1e-6)
        return share_C.log() if settings["kind"] == "class" else (share_C / (1 - share_C)).log()
    if "hidden_weight" in tensors:
        x_D = (x_D - tensors["mean"]) / tensors["scale"]
        x_D = torch.tanh(tensors["hidden_weight"] @ x_D + tensors["hidden_bias"])
    return tensors["weight"] @ x_D + tensors["bias"]
