"""Sort texts, pictures or sounds into classes: one label a row, several labels, or a number (regression).

Axes: K rows, C classes.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from luthier.data.lengths import cut_text
from luthier.evaluate import classification
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.pictures import picture_example, read_pictures, told_pictures
from luthier.tasks.sounds import read_sound, sound_example, told_sounds
from luthier.types import INLINE, Example, Features, Finding

DEFAULTS = {"batch_size": 32, "overlong": "truncate", "epochs": 3.0}
PROBLEMS = {
    "single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression",
}  # fmt: skip
OBJECTIVES = {"single": "classification", "multi": "multi_label", "regression": "regression"}
METRICS = {"single": "accuracy", "multi": "f1_micro", "regression": "mae"}


class Options(Section):
    kind: Literal["auto", "single", "multi", "regression"] = Field(
        "auto", description="one label a row, several, or a number; default: told by the labels"
    )


class Task:
    formats = ("image-text-label", "audio-label", "text-label", "image-label")
    writes_from_source = False
    splits = False
    sample_options: dict[str, Any] = {}

    def __init__(self, options: Options):
        self.kind: str = options.kind
        self.labels: list[str] = []
        self.pictures = self.sounds = False

    @property
    def metric(self) -> str:
        return METRICS[self.kind]

    @property
    def metrics(self) -> dict[str, bool]:
        return {"loss": False, **classification.METRICS[self.kind]}

    def objective(self) -> str:
        return OBJECTIVES[self.kind]

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        if self.kind == "auto":
            self.kind = _kind(train)
        if self.kind == "regression":
            _read_numbers([*train, *evaluation])
        findings = self._labels_fit_kind([*train, *evaluation])
        if findings or self.kind == "regression":
            return findings
        counts = Counter(label for example in train for label in _names(example))
        self.labels = sorted(counts, key=_natural)
        if len(self.labels) < 2 and self.kind == "single":
            what = f"all {len(train)} rows have one label, {self.labels}" if self.labels else "no row has a label"
            findings.append(Finding("data.single-class", "data.train", what, "give rows of at least two classes"))
        return findings + self.unknown(evaluation) + _rare(counts, train)

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """Labels that the model does not know, with the nearest that it does."""
        return _unknown(examples, self.labels) if self.kind != "regression" else []

    def _labels_fit_kind(self, examples: Sequence[Example]) -> list[Finding]:
        wanted = {"single": (str, int, bool), "multi": (list,), "regression": (int, float)}[self.kind]
        findings = []
        for example in examples:
            if not isinstance(example.label, wanted):
                what = f"the label {example.label!r} does not fit `{self.kind}` classification"
                mend = "make labels of one kind, or set `classify.kind`"
                findings.append(Finding("data.label-kind", f"{example.source}:label", what, mend))
        return findings

    def config(self) -> dict[str, Any]:
        names = self.labels or ["value"]
        label_ids = {name: i for i, name in enumerate(names)}
        named = {"id2label": dict(enumerate(names)), "label2id": label_ids}
        return {"num_labels": len(names), **named, "problem_type": PROBLEMS[self.kind]}

    def from_config(self, config: Any) -> None:
        self.kind = {problem: kind for kind, problem in PROBLEMS.items()}[config.problem_type]
        self.labels = [] if self.kind == "regression" else [config.id2label[i] for i in sorted(config.id2label)]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        tokenizer, most = backbone.tokenizer, limit if overlong == "truncate" else None
        self.pictures, self.sounds = backbone.pictures is not None, backbone.sounds is not None

        def encode(example: Example) -> list[Features]:
            target = None if example.label is None else self._target(example)
            known = {"target": target, "weight": example.weight}
            if self.pictures or example.images:
                return [read_pictures(backbone, example, most) | known]
            if self.sounds or example.sounds:
                return [read_sound(backbone, example, most) | known]
            ids, full = cut_text(tokenizer, example.text or "", most)
            return [{"input_ids": ids, "full_length": full} | known]

        return encode

    def _target(self, example: Example) -> Any:
        if self.kind == "regression":
            return float(example.label)  # type: ignore[arg-type]
        names = _names(example)
        if self.kind == "single":
            return self.labels.index(names[0])
        return [int(label in names) for label in self.labels]

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return classification.plain(outputs, [row["target"] for row in rows], self.kind)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return classification.with_intervals(outputs, [row["target"] for row in rows], self.kind)

    def parse(self, given: Any) -> Example:
        if self.pictures:
            return picture_example(given)
        if self.sounds:
            return sound_example(given)
        text = given.get("text", "") if isinstance(given, dict) else str(given)
        return Example(INLINE, text=text)

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        return [self.answer_from(logits) for logits in ask.outputs(examples)]

    def answer_from(self, logits: list[float]) -> dict[str, Any]:
        """The answer that a row's outputs stand for."""
        z_C = np.asarray(logits)
        if self.kind == "regression":
            return {"value": float(z_C[0])}
        if self.kind == "multi":
            p_C = 1 / (1 + np.exp(-z_C))
            chosen = [label for label, p in zip(self.labels, p_C, strict=True) if p > 0.5]
            return {"labels": chosen, "probabilities": dict(zip(self.labels, p_C.tolist(), strict=True))}
        p_C = np.exp(z_C - z_C.max()) / np.exp(z_C - z_C.max()).sum()
        best = int(p_C.argmax())
        top = {self.labels[i]: float(p_C[i]) for i in np.argsort(-p_C)[:5]}
        return {"label": self.labels[best], "probability": float(p_C[best]), "probabilities": top}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        label = example.label
        return " ".join([*told_pictures(example), *told_sounds(example), example.text or ""]).strip(), ", ".join(
            label
        ) if isinstance(label, list) else "" if label is None else str(label)

    def shown_answer(self, answer: dict[str, Any]) -> str:
        if self.kind == "regression":
            return f"{answer['value']:.3g}"
        return (
            ", ".join(answer["labels"]) if self.kind == "multi" else f"{answer['label']} ({answer['probability']:.2f})"
        )

    def decided(self, answer: dict[str, Any]) -> str:
        return answer["label"] if self.kind == "single" else self.shown_answer(answer)

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        if self.kind == "regression":
            return None
        return sorted(_names(example)) == sorted(answer["labels"] if self.kind == "multi" else [answer["label"]])

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        if self.kind != "single":
            return None
        best = [int(np.argmax(logits)) for logits in outputs]
        return [(self.labels[row["target"]], self.labels[at]) for row, at in zip(rows, best, strict=True)]


def _kind(examples: Sequence[Example]) -> str:
    labels = [example.label for example in examples if example.label is not None]
    if any(isinstance(label, list) for label in labels):
        return "multi"
    if labels and all(isinstance(label, str) and _number(label) is not None for label in labels):
        return "regression" if any("." in str(label) for label in labels) else "single"  # a table's numbers are text
    return "regression" if any(isinstance(label, float) for label in labels) else "single"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_numbers(examples: Sequence[Example]) -> None:
    for example in examples:
        if isinstance(example.label, str) and (value := _number(example.label)) is not None:
            example.label = value


def _names(example: Example) -> list[str]:
    label = example.label
    return [str(name) for name in label] if isinstance(label, list) else [] if label is None else [str(label)]


def _natural(name: str) -> tuple[bool, float, str]:
    """ "2" before "10", numbers before words."""
    value = _number(name)
    return (True, 0.0, name) if value is None else (False, value, name)


def _unknown(evaluation: Sequence[Example], labels: list[str]) -> list[Finding]:
    findings = []
    for example in evaluation:
        for name in _names(example):
            if name not in labels:
                near = difflib.get_close_matches(name, labels, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"labels in train: {', '.join(labels[:10])}"
                what = f"the label {name!r} is not in the training rows"
                findings.append(Finding("data.unknown-label", f"{example.source}:label", what, mend))
    return findings


def _rare(counts: Counter[str], train: Sequence[Example]) -> list[Finding]:
    """A label that occurs once or twice and is nearly another one is most likely a slip."""
    findings = []
    usual = [label for label, count in counts.items() if count > 2]
    for label in [label for label, count in counts.items() if count <= 2]:
        near = difflib.get_close_matches(label, usual, n=1, cutoff=0.85)
        if near and not label.isdigit():
            source = next(example.source for example in train if label in _names(example))
            what = f"the label {label!r} occurs {counts[label]} time(s), {near[0]!r} {counts[near[0]]}"
            finding = Finding(
                "data.label-near-miss", f"{source}:label", what, f"did you mean {near[0]!r}?", severity="warning"
            )
            findings.append(finding)
    return findings
