"""The table of cases: every model × task × method, and what is expected of each: it works, or it is refused.

The battery in ``test_matrix.py`` runs the cells, ``grid.py`` writes them as ``docs/grid.md``. A new line here gets
every test for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import tiny

ENCODERS = tiny.ENCODERS
DECODERS = tuple(name for name in tiny.DECODERS if name != "llama-tied")
ENCODER_DECODERS = tiny.ENCODER_DECODERS
MODELS = (*ENCODERS, *DECODERS, *ENCODER_DECODERS)
SHOWN = {
    "bert": "BERT", "roberta": "RoBERTa", "modernbert": "ModernBERT (cls)", "modernbert-mean": "ModernBERT (mean)",
    "deberta-v2": "DeBERTa-v2", "distilbert": "DistilBERT", "gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3",
    "gemma2": "Gemma 2", "gemma3": "Gemma 3 (text)", "mistral": "Mistral",
    "t5": "T5 1.1", "t5-tied": "T5", "bart": "BART",
}  # fmt: skip

CLASSIFY = ("single", "multi", "regression")
HEADED = (*CLASSIFY, "tag")
"""Tasks whose models have a head of their own, which is new."""
TASKS = (*HEADED, "chat", "complete", "summarize", "retrieve")

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learning_rate": 3e-3},
    "freeze: head": {"method": "freeze", "freeze": {"train": ["head"]}, "learning_rate": 3e-2},
    "freeze: last 1": {"method": "freeze", "freeze": {"last": 1}, "learning_rate": 1e-2},
    "freeze: norms": {"method": "freeze", "freeze": {"train": ["norms"]}, "learning_rate": 6e-2},
    "freeze: biases": {"method": "freeze", "freeze": {"train": ["biases"]}, "learning_rate": 3e-2},
    "features: logistic": {"method": "features", "features": {"classifier": "logistic", "C": 100.0}},
    "features: knn": {"method": "features", "features": {"classifier": "knn", "neighbours": 3}},
    "features: ridge": {"method": "features", "features": {"classifier": "ridge", "alpha": 0.1}},
    "features: torch": {"method": "features", "features": {"classifier": "torch", "hidden": 16}},
    "lora": {"method": "lora", "lora": {"rank": 4}, "learning_rate": 2e-2},
    "lora: rslora": {"method": "lora", "lora": {"rank": 4, "rslora": True}, "learning_rate": 1e-2},
    "lora: dora": {"method": "lora", "lora": {"rank": 4, "variant": "dora"}, "learning_rate": 1e-2},
    "lora: pissa": {"method": "lora", "lora": {"rank": 4, "variant": "pissa"}, "learning_rate": 5e-3},
    "lora: adalora": {"method": "adalora", "lora": {"rank": 4}, "learning_rate": 5e-2},
    "lora: vera": {"method": "vera", "lora": {"rank": 16}, "learning_rate": 2e-1},
    "lora: oft": {"method": "oft", "lora": {"rank": 8}, "learning_rate": 2e-2},
    "ia3": {"method": "ia3", "learning_rate": 2e-1},
    "adapter: pfeiffer": {"method": "pfeiffer", "adapter": {"size": 8}, "learning_rate": 2e-2},
    "adapter: houlsby": {"method": "houlsby", "adapter": {"size": 8, "norm": True}, "learning_rate": 2e-2},
    "adapter: parallel": {"method": "parallel", "adapter": {"reduction": 4}, "learning_rate": 2e-2},
    "adapter: stack": {"method": {"adapter": {"size": 8, "stack": ["{a}"]}}, "learning_rate": 2e-2},
    "fusion": {"method": {"fusion": ["{a}", "{b}", "{c}"]}, "learning_rate": 3e-2},
    "prompt": {"method": "prompt", "prompt": {"num_virtual_tokens": 6}, "learning_rate": 0.3},
    "prompt: p-tuning mlp": {
        "method": "prompt", "prompt": {"num_virtual_tokens": 6, "encoder": "mlp"}, "learning_rate": 2e-2,
    },
    "prompt: p-tuning lstm": {
        "method": "prompt", "prompt": {"num_virtual_tokens": 6, "encoder": "lstm"}, "learning_rate": 2e-2,
    },
    "prefix": {"method": "prefix", "prefix": {"num_virtual_tokens": 6, "hidden": 32}, "learning_rate": 2e-2},
    "prefix: no projection": {
        "method": "prefix", "prefix": {"num_virtual_tokens": 6, "projection": False}, "learning_rate": 0.1,
    },
    "lora + norms": {"method": ["lora", {"freeze": {"train": ["norms"]}}], "learning_rate": 1e-2},
    "lora + adapter": {"method": [{"lora": {"rank": 4}}, {"adapter": {"size": 8}}], "learning_rate": 1e-2},
    "prompt + lora": {
        "method": [{"prompt": {"num_virtual_tokens": 6}}, {"lora": {"rank": 4}}], "learning_rate": 1e-2,
    },
}  # fmt: skip

# Where a cell needs another rate than its method has in the table, or more steps: dropout in a frozen random encoder
# hides what little a step of these can teach it.
LONGER = {"steps": 80, "eval_every": 80}
APART: dict[tuple[str, str, str], dict[str, Any]] = {
    ("bert", "multi", "adapter: houlsby"): LONGER,
    ("bert", "regression", "prompt"): {"learning_rate": 0.03},
    ("bert", "retrieve", "prefix: no projection"): {"learning_rate": 0.3},
    ("deberta-v2", "retrieve", "freeze: biases"): {"learning_rate": 3e-3},
    ("distilbert", "multi", "prefix"): LONGER,
    ("roberta", "multi", "adapter: houlsby"): LONGER,
    ("roberta", "multi", "prompt: p-tuning lstm"): LONGER,
    ("roberta", "multi", "prompt: p-tuning mlp"): LONGER,
    ("roberta", "regression", "prompt: p-tuning mlp"): LONGER,
    ("t5", "multi", "lora: vera"): {"learning_rate": 5e-2},
}
NO_BIASES = ("modernbert", "modernbert-mean", "llama", "qwen3", "gemma2", "gemma3", "mistral", "t5", "t5-tied")
TIED = ("gpt2", "gemma2", "gemma3", "t5-tied", "bart")
WINDOWED = ("gemma2", "gemma3", "mistral")
UNTAGGED = ("gemma3",)  # no head on tokens in transformers

REASONS = {
    "method.combination: no classes": "Features fit a classifier to frozen vectors, and this task has no classes. "
    "Nearest: `lora` or `full` here, or `luthier index` with the model as it is.",
    "method.combination": "Features are one vector a row, and this task predicts tokens. "
    "Nearest: `lora`, `full` or `freeze` here, or `features` with `classify`.",
    "model.not-causal": "In an encoder every token sees those after it, so it cannot learn to write. "
    "Nearest: `classify` with this model, or this task with a decoder.",
    "model.unreadable": "The architecture has no head that writes text. "
    "Nearest: `classify` with this model, or this task with a decoder.",
    "model.encoder-decoder": "An encoder-decoder writes a target from a source, and these rows are one text. "
    "Nearest: `summarize` with this model, or this task with a decoder.",
    "model.encoder-decoder: encoder alone": "Its encoder alone would make vectors, and its decoder train for nothing. "
    "Nearest: `summarize` with this model, or this task with an encoder or a decoder.",
    "method.no-target: no head": "A model that gives vectors has no head. Nearest: `freeze.last: 1` or `lora`.",
    "model.encoder-decoder: head": "A head on tokens needs one stack that reads them, and an encoder-decoder has two. "
    "Nearest: this task with an encoder or a decoder, or `summarize` with this model.",
    "model.unreadable: TokenClassification": "The architecture has no head on tokens in transformers. "
    "Nearest: `classify` with this model, or this task with an encoder.",
    "method.no-target: head": "The head is the embedding table itself (tied), so there is no head to train alone. "
    "Nearest: `freeze.last: 1`, or `train: [embedding]`.",
    "method.unsupported": "PEFT has no such layer for a matrix that is kept transposed. Nearest: `lora`.",
    "method.no-target: biases": "This architecture has no biases outside a new head. "
    "Nearest: `train: [norms]`, or `train: [head]`.",
    "method.no-target: attention": "The architecture computes its attention itself, so there is no place for a prefix. "
    "Nearest: `prompt`.",
}


@dataclass(frozen=True)
class Cell:
    model: str
    task: str
    method: str

    def __str__(self) -> str:
        return f"{self.model}, {self.task}, {self.method}"

    @property
    def refusal(self) -> str | None:
        """The key of ``REASONS`` under which this cell is refused; None where it works."""
        if self.task == "retrieve" and (refusal := self.retrieve_refusal):
            return refusal
        writes = self.task not in (*HEADED, "retrieve")
        if self.task not in (*CLASSIFY, "retrieve") and self.method.startswith("features"):
            return "method.combination"
        if writes and self.model in ENCODERS:
            return "model.not-causal" if self.model in ("bert", "roberta") else "model.unreadable"
        if self.task == "tag" and self.model in ENCODER_DECODERS:
            return "model.encoder-decoder: head"
        if self.task == "tag" and self.model in UNTAGGED:
            return "model.unreadable: TokenClassification"
        if self.task in ("chat", "complete") and self.model in ENCODER_DECODERS:
            return "model.encoder-decoder"
        if writes and self.method == "freeze: head" and self.model in TIED:
            return "method.no-target: head"
        if self.method == "lora: oft" and self.model == "gpt2":
            return "method.unsupported"
        if self.method == "freeze: biases" and self.model in NO_BIASES:
            return "method.no-target: biases"
        if self.method.startswith("prefix") and self.model == "deberta-v2":
            return "method.no-target: attention"
        return None

    @property
    def retrieve_refusal(self) -> str | None:
        """Why vectors are not made so, apart from what refuses a method in any task."""
        if self.method.startswith("features"):
            return "method.combination: no classes"
        if self.model in ENCODER_DECODERS:
            return "model.encoder-decoder: encoder alone"
        return "method.no-target: no head" if self.method == "freeze: head" else None

    @property
    def saves(self) -> str:
        """What its final folder holds: a whole model, a classifier, an adapter, or one a method."""
        if self.method.startswith("features"):
            return "classifier"
        if "+" in self.method:
            return "several"
        return "whole" if self.method.startswith(("full", "freeze")) else "adapter"

    @property
    def opens_with(self) -> str:
        """The library that opens it without Luthier."""
        if self.saves == "whole":
            return "transformers"
        return "peft" if self.saves == "adapter" and self.peft_opens else "luthier"

    @property
    def peft_opens(self) -> bool:
        """Whether PEFT itself gives the same logits; where it would not, what is saved must be refused by it.

        It reads a virtual token where an encoder's head reads the first one or all (a head on tokens does), and puts
        prefixes into the KV cache of models that write alone, where windows forget them; and it knows no bottlenecks.
        """
        if self.task == "retrieve" and self.method.startswith(("prompt", "prefix")):
            return False
        if self.method.startswith("prompt"):
            return self.model in DECODERS and self.task != "tag"
        if self.method.startswith("prefix"):
            return self.task not in HEADED and self.model not in (*WINDOWED, *ENCODER_DECODERS)
        return not self.method.startswith(("adapter", "fusion"))

    def parts(self) -> set[tuple[str, str]]:
        """Its model and its method, each by itself."""
        return {("model", self.model), ("method", self.method)}

    def pairs(self) -> set[tuple[str, str]]:
        """Its model with its task and with its method's family, and its task with its method.

        Vectors are read from the same trunk as a classifier's head reads: there the family will do.
        """
        family = self.method.partition(":")[0]
        variant = family if self.task == "retrieve" else self.method
        return {(self.model, self.task), (self.model, family), (self.task, variant)}


CELLS = [Cell(*parts) for parts in product(MODELS, TASKS, METHODS)]
WORKING = [cell for cell in CELLS if cell.refusal is None]
REFUSED = [cell for cell in CELLS if cell.refusal is not None]


def covering(cells: list[Cell], pairs: Callable[[Cell], set[tuple[str, str]]] = Cell.pairs) -> set[Cell]:
    """Cells that hold every pair that ``cells`` hold: greedy, in order."""
    left = set().union(*(pairs(cell) for cell in cells))
    chosen: set[Cell] = set()
    while left:
        best = max(cells, key=lambda cell: len(pairs(cell) & left))
        chosen.add(best)
        left -= pairs(best)
    return chosen
