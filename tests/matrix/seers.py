"""Pretrained models that read pictures and write, of one family each: the cases that ``test_seers_matrix.py`` runs and
``grid.py`` writes down."""

from __future__ import annotations

from typing import Any

import families
import tiny

MODELS = (*tiny.VISION_LANGUAGE, *families.FILMS, *families.PREFIX, *families.LEADING, *families.APART)
SHOWN = {
    "llava": "LLaVA", "idefics3": "Idefics3", "gemma3": "Gemma 3", "smolvlm": "SmolVLM", "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "paligemma": "PaliGemma", "blip-2": "BLIP-2",
    "blip-2-t5": "BLIP-2 + T5", "instructblip": "InstructBLIP", "instructblip-t5": "InstructBLIP + T5",
    "vit-gpt2": "ViT + GPT-2", "vit-bert": "ViT + BERT", "donut": "Donut",
}  # fmt: skip
ONE_ANSWER = ("paligemma", "blip-2", "vit-gpt2")
"""Those that read one prompt and write one answer: no conversation."""
TASKS = ("caption", "vqa", "chat")
LORA: dict[str, Any] = {"lora": {"rank": 4}, "learning_rate": 2e-2}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learning_rate": 3e-3},
    "lora": {"method": "lora", **LORA},
    "vision lora, text lora": {"method": {"vision": LORA, "text": LORA}},
    "vision frozen, text full": {"method": {"vision": "frozen", "text": {"full": {}, "learning_rate": 3e-3}}},
}
CELLS = [(model, task, method) for model in MODELS for task in TASKS for method in METHODS]


def refusal(model: str, task: str, method: str) -> str | None:
    """The code of what is found, or None where it works."""
    if model in families.APART and task == "chat":
        return "model.encoder-decoder"
    if model.endswith("t5"):
        by_text = task != "chat" and isinstance(given := METHODS[method]["method"], dict) and "text" in given
        return "model.encoder-decoder" if task == "chat" else "method.no-role" if by_text else None
    return "model.processor" if model in (*families.PREFIX, *families.LEADING) and task == "chat" else None
