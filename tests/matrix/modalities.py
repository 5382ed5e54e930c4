"""The tables of pictures, sounds and actions: every method on every kind of model, and what is expected of each. The
tests named at each run its cells, ``grid.py`` writes them down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import seers
from table import METHODS

import tiny
from luthier.methods.lora import CONVOLVE

ALONE = tuple(method for method in METHODS if method not in ("adapter: stack", "fusion"))
"""Those that build on no other run."""


@dataclass(frozen=True)
class Table:
    """``columns``: what a cell's model, mechanism or way is called, and how it is shown; ``refusal(column, method)`` is
    the code of what is found, or None where the cell works."""

    title: str
    columns: dict[str, str]
    refusal: Callable[[str, str], str | None]
    methods: Sequence[str] = ALONE

    @property
    def cells(self) -> list[tuple[str, str]]:
        return [(column, method) for column in self.columns for method in self.methods]


REASONS = {
    "method.combination": "Features fit a classifier to vectors of a whole model: what joins two towers is new, and "
    "what is written or compared is no class. Nearest: `lora` or `full`.",
    "method.no-target": "The model has no such place: no embeddings of tokens before which a prompt could stand, no "
    "attention of the usual form, no block of one width, or no head of its own. Nearest: `lora`.",
    "method.unsupported": "PEFT has no such layer for a convolution, or (OFT) one that merges into another. "
    "Nearest: `lora`, `lora: dora`, `lora: adalora`, `ia3`.",
    "model.processor": "The model reads one prompt and writes one answer. Nearest: `vqa`.",
    "method.no-role": "An encoder-decoder inside has `encoder` and `decoder`, and no `text`. Nearest: these.",
    "model.encoder-decoder": "It writes from a picture, and a conversation is one text. Nearest: `caption`.",
}


SEES = ("vit", "clip", "siglip", "resnet", "convnext")
CONVOLUTIONAL = ("resnet", "convnext")
UNCONVOLVED = ("lora: pissa", "lora: vera", "lora: oft", *([] if "adalora" in CONVOLVE else ["lora: adalora"]))
COMPOSED = ("projection", "concatenation", "cross_attention", "modulation")


def _classified(model: str, method: str) -> str | None:
    family = method.partition(":")[0]
    if model in CONVOLUTIONAL and ("adapter" in method or method.startswith(("prefix", "prompt"))):
        return "method.no-target"  # no attention, and streams of several widths
    if model in CONVOLUTIONAL and method in UNCONVOLVED:
        return "method.unsupported"  # made for linear layers
    if model in COMPOSED and family == "features":
        return "method.combination"  # what joins them is new
    return None


PICTURES = Table(
    "classify: pictures, alone and with a text",
    {"vit": "ViT", "clip": "CLIP", "siglip": "SigLIP", "resnet": "ResNet", "convnext": "ConvNeXt"}
    | {fuse: f"ViT + BERT, {fuse}" for fuse in COMPOSED},
    _classified,
)  # test_pictures_matrix.py


def _matched(model: str, method: str) -> str | None:
    if method.startswith("features"):
        return "method.combination"  # it fits a classifier
    if "prompt" in method:
        return "method.no-target"  # it would stand before one side's rows alone
    if method == "freeze: head" and model == "siglip":
        return "method.no-target"  # nothing is projected
    return None


MATCH = Table(
    "match: pictures with texts",
    {"clip": "CLIP", "siglip": "SigLIP", "towers": "ViT + BERT, similarity"},
    _matched,
)  # test_match_matrix.py

WRITES = ("projection", "early", "gates")
FUSES: dict[str, Any] = {
    "projection": "projection", "early": {"concatenation": {"when": "early"}}, "gates": "cross_attention",
}  # fmt: skip
CALLED = {"projection": "projection", "early": "early concatenation", "gates": "cross_attention"}


def _written(column: str, method: str) -> str | None:
    return "method.combination" if method.startswith("features") else None  # it fits a classifier


WRITERS = Table(
    "caption and vqa: ViT + Llama",
    {f"{fuse} {task}": f"{CALLED[fuse]}, {task}" for fuse in WRITES for task in ("caption", "vqa")},
    _written,
)  # test_writers_matrix.py


def _talked(model: str, method: str) -> str | None:
    if model == "gemma3" and ("prompt" in method or method == "freeze: head"):
        return "method.no-target"  # it tells pictures by ids; its head is the table of embeddings
    return _written(model, method)


CHAT = Table(
    "chat: conversations with pictures",
    {fuse: f"ViT + Llama, {CALLED[fuse]}" for fuse in WRITES}
    | {kind: seers.SHOWN[kind] for kind in tiny.VISION_LANGUAGE},
    _talked,
)  # test_shown_chat_matrix.py

JUDGED_BY = (
    "full", "freeze: head", "freeze: last 1", "features: logistic", "lora", "lora: dora", "lora: pissa", "ia3",
    "adapter: houlsby", "prompt", "prefix", "lora + norms", "lora + adapter",
)  # fmt: skip
LOSSES = ("dpo", "ipo", "simpo", "orpo", "cpo", "kto")
ANSWERED = (*tiny.VISION_LANGUAGE, "smolvlm", "qwen2_5_vl")


def _preferred(model: str, method: str) -> str | None:
    if method.partition(":")[0] == "features":
        return "method.combination"
    if model in seers.ONE_ANSWER:
        return "model.encoder-decoder" if model == "vit-gpt2" else "model.processor"
    if model == "qwen2_5_vl" and "prompt" in method:
        return "method.no-target"  # it tells pictures by ids
    return _talked(model, method)


PREFER = Table(
    "prefer: answers about pictures, by DPO",
    {fuse: f"ViT + Llama, {CALLED[fuse]}" for fuse in WRITES}
    | {kind: seers.SHOWN[kind] for kind in (*ANSWERED, *seers.ONE_ANSWER)},
    _preferred,
    JUDGED_BY,
)  # test_shown_preferences_matrix.py


def _scored(model: str, method: str) -> str | None:
    if method == "freeze: head":
        return _preferred(model, method) if model in seers.ONE_ANSWER else None  # its head is new, and its own
    return _preferred(model, method)


REWARD = Table(
    "reward: answers about pictures",
    {fuse: f"ViT + Llama, {CALLED[fuse]}" for fuse in WRITES}
    | {kind: seers.SHOWN[kind] for kind in (*ANSWERED, "paligemma")},
    _scored,
    JUDGED_BY,
)  # test_shown_preferences_matrix.py
BY_LOSS = Table(
    "prefer: answers about pictures, LoRA, by objective",
    {fuse: f"ViT + Llama, {CALLED[fuse]}" for fuse in WRITES} | {kind: seers.SHOWN[kind] for kind in ANSWERED},
    lambda model, loss: None,
    LOSSES,
)  # test_shown_preferences_matrix.py

FAMILIES = tuple(
    Table(
        f"{task}: pretrained models of both",
        seers.SHOWN,
        lambda model, method, task=task: seers.refusal(model, task, method),
        tuple(seers.METHODS),
    )  # type: ignore[misc]
    for task in seers.TASKS
)  # test_seers_matrix.py

HEARS = {
    "classify": ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert", "ast", "whisper"),
    "transcribe": ("wav2vec2", "wav2vec2-group", "hubert", "wavlm", "wav2vec2-bert", "parakeet", "whisper"),
}
EARS = {
    "wav2vec2": "Wav2Vec2", "wav2vec2-group": "Wav2Vec2 (group)", "hubert": "HuBERT", "wavlm": "WavLM",
    "wav2vec2-bert": "Wav2Vec2-BERT", "parakeet": "Parakeet", "ast": "AST", "whisper": "Whisper",
}  # fmt: skip
OWN_ATTENTION = ("wavlm", "parakeet")
"""Those that compute attention themselves, with relative positions."""
CONFORMERS = ("wav2vec2-bert", "parakeet")
"""Those whose blocks have two feed-forwards, with a convolution between."""


def heard(task: str, model: str, method: str) -> str | None:
    if method.startswith("prompt"):
        return "method.no-target"  # there are no embeddings of tokens
    if task == "transcribe" and method.startswith("features"):
        return "method.combination"
    if (task, model, method) == ("transcribe", "whisper", "freeze: head"):
        return "method.no-target"  # its head is the table of its tokens
    if method.startswith("prefix") and model in OWN_ATTENTION:
        return "method.no-target"
    if method in ("adapter: houlsby", "adapter: parallel") and model in CONFORMERS:
        return "method.no-target"
    return None


SOUNDS = tuple(
    Table(
        f"{task}: sounds",
        {model: EARS[model] for model in models},
        lambda model, method, task=task: heard(task, model, method),
    )  # type: ignore[misc]
    for task, models in HEARS.items()
)  # test_sounds_matrix.py

JOINS: dict[str, Any] = {
    "projection": "projection", "counted": {"projection": {"tokens": 3}},
    "resampled": {"projection": {"tokens": 3, "resample": True}},
    "early": {"concatenation": {"when": "early"}}, "gates": "cross_attention",
}  # fmt: skip
JOINED = Table(
    "transcribe: sounds with a language model, Wav2Vec2 + Llama",
    CALLED | {"counted": "projection, counted", "resampled": "projection, resampled"},
    _written,
    ("full", "lora", "adapter: pfeiffer", "prefix", "features: logistic"),
)  # test_joined_sounds_matrix.py

ACT = Table(
    "act: ViT + BERT, predicted by",
    {way: way for way in ("classes", "regression", "bins", "flow")},
    _written,  # what joins the towers is new
    ("full", "freeze: head", "lora", "lora: dora", "ia3", "adapter: houlsby", "prompt", "prefix", "lora + norms",
     "features: logistic"),
)  # fmt: skip  # test_act_matrix.py

TABLES = (PICTURES, MATCH, WRITERS, CHAT, PREFER, BY_LOSS, REWARD, *FAMILIES, *SOUNDS, JOINED, ACT)
