"""Methods by role: the table of cases that ``test_roles_matrix.py`` runs and ``grid.py`` writes down.

``vision`` and ``text`` stand for the two towers; of an encoder-decoder they are its ``encoder`` and ``decoder``.
"""

from __future__ import annotations

from typing import Any

COMPOSED = ("projection", "concatenation", "cross_attention")
MODELS = (*COMPOSED, "convolutional", "clip", "llava", "t5")
SHOWN = {"convolutional": "ResNet + BERT", "clip": "CLIP", "llava": "LLaVA", "t5": "T5 1.1"}
LORA, ADAPTER = {"lora": {"rank": 4}, "learning_rate": 1e-2}, {"adapter": {"size": 8}, "learning_rate": 2e-2}
FULL = {"full": {}, "learning_rate": 3e-3}
TOWERS: dict[str, dict[str, Any]] = {
    "lora, adapter, full": {"vision": LORA, "text": ADAPTER, "projector": FULL},
    "frozen, full": {"vision": "frozen", "text": FULL},
    "last block, lora + norms": {
        "vision": {"freeze": {"last": 1}, "learning_rate": 1e-2},
        "text": {"lora": {"rank": 4}, "freeze": {"train": ["norms"]}, "learning_rate": 1e-2},
    },
    "adapter, adapter": {"vision": ADAPTER, "text": ADAPTER},
    "dora, prompt": {
        "vision": {"dora": {"rank": 4}, "learning_rate": 1e-2},
        "text": {"prompt": {"num_virtual_tokens": 6}, "learning_rate": 0.1},
    },
    "vera, adalora": {
        "vision": {"vera": {"rank": 16}, "learning_rate": 0.1},
        "text": {"adalora": {"rank": 4}, "learning_rate": 5e-2},
    },
    "lora, prefix": {
        "vision": LORA,
        "text": {"prefix": {"num_virtual_tokens": 6, "hidden": 32}, "learning_rate": 2e-2},
    },
    "full, ia3": {"vision": FULL, "text": {"ia3": {}, "learning_rate": 2e-1}},
    "pissa, houlsby": {
        "vision": {"pissa": {"rank": 4}, "learning_rate": 5e-3},
        "text": {"houlsby": {"size": 8}, "learning_rate": 2e-2},
    },
    "frozen, frozen, full": {"vision": "frozen", "text": "frozen", "projector": FULL},
    "features, lora": {"vision": "features", "text": LORA},
    "lora, no such role": {"vision": LORA, "audio": LORA},
}


def towers_of(model: str, towers: str) -> dict[str, Any]:
    """``method`` of a recipe."""
    names = {"vision": "encoder", "text": "decoder"} if model == "t5" else {}
    return {names.get(role, role): method for role, method in TOWERS[towers].items()}


def refusal(model: str, towers: str) -> str | None:
    """The code of what is found, or None where it works."""
    if towers.startswith("features"):
        return "method.combination"  # it fits a classifier to vectors of the whole
    if "no such role" in towers or (model == "t5" and "projector" in TOWERS[towers]):
        return "method.no-role"
    if model == "t5" and "prompt" in towers:
        return "method.no-target"  # before the source, which is the encoder's
    if model == "convolutional" and towers.startswith("adapter"):
        return "method.no-target"
    if model == "convolutional" and towers.startswith(("vera", "pissa")):
        return "method.unsupported"
    return None


CELLS = [(model, towers) for model in MODELS for towers in TOWERS]
