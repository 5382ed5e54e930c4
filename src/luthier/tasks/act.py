"""Act: from pictures, an instruction and a state to what is done next, by imitation of episodes.

Actions that are names are classes; actions that are numbers are predicted in chunks: by regression, as bins, or drawn
by a flow. How numbers are scaled is kept in `actions.json` beside the model, which is not opened without it.

Axes: N numbers of a chunk, A of an action, C names, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from luthier.data.lengths import cut_text
from luthier.data.statistics import Known, Scale, middle_of, read_known
from luthier.evaluate import actions as scores
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.options import Options as Section
from luthier.tasks.actions import (
    Reading,
    action_ids,
    asked_steps,
    chunk_of,
    foreign_units,
    last_done,
    one_instruction,
    room_before,
    uneven,
    unfitting,
    with_action_tokens,
)
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.observed import observed, other_pictures, other_text, told_actions
from luthier.tasks.pictures import read_pictures
from luthier.types import Example, Features, Finding, Refused

DEFAULTS = {"batch_size": 32, "overlong": "truncate", "epochs": 5.0}
OBJECTIVES = {
    "classes": "classification", "regression": "chunk_regression", "bins": "binned_actions", "flow": "flow_matching",
    "tokens": "action_tokens",
}  # fmt: skip
SWAPPED = 100  # episodes in which the instruction, then the pictures, are another's


class Options(Section):
    predicts: Literal["auto", "classes", "regression", "bins", "tokens", "flow"] = Field(
        "auto",
        description="names as classes; numbers by regression, as bins, tokens, or by a flow; default: by the rows",
    )
    chunk: int = Field(1, ge=1, description="actions that are predicted at once; of names: 1")
    history: int = Field(1, ge=1, description="frames that are seen: the present one and those before it")
    state: bool = Field(True, description="the state is read, where rows have one")
    bins: int = Field(256, ge=2, description="of each number, where it is predicted as one")
    layers: int = Field(2, ge=1, description="of the action expert, where actions are drawn by a flow")


class Task:
    formats = ("episode",)
    writes_from_source = False
    splits = False
    sample_options: dict[str, Any] = {}

    def __init__(self, options: Options):
        self.options = options
        self.known = Known(options.predicts)
        self.pictures = 1
        """Of a step."""

    @property
    def predicts(self) -> str:
        return self.known.predicts

    @property
    def labels(self) -> list[str]:
        return self.known.labels

    @property
    def metric(self) -> str:
        return "accuracy" if self.predicts == "classes" else "action_error"

    @property
    def metrics(self) -> dict[str, bool]:
        return {"loss": False, **(scores.NAMES if self.predicts == "classes" else scores.NUMBERS)}

    def objective(self) -> str:
        return OBJECTIVES[self.predicts]

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        named = any(isinstance(step.action, str) for example in train for step in example.steps or ())
        if self.predicts == "auto":
            self.known.predicts = "classes" if named else "regression"
        if findings := uneven([*train, *evaluation]) or unfitting(named, self.predicts, self.options.chunk):
            return findings
        steps = [step for example in train for step in example.steps or ()]
        if states := [step.state for step in steps if step.state is not None]:
            self.known.state = Scale.of(states) if self.options.state else None
        if named:
            self.known.labels = sorted({str(step.action) for step in steps})
        else:
            self.known.action = Scale.of([step.action for step in steps])  # type: ignore[misc]
        self.known.units = next((example.units for example in train if example.units), None)
        self.pictures = max(len(step.images) for step in steps)
        return one_instruction(train) + self.unknown([*train, *evaluation])

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """Names that were not learned, and numbers of other units."""
        findings = foreign_units(examples, self.known)
        for example in examples if self.predicts == "classes" else ():
            for at, step in enumerate(example.steps or ()):
                if step.action is not None and step.action not in self.labels:
                    what = f"the action {step.action!r} is not in the training rows"
                    mend = f"those there are {', '.join(self.labels[:12])}"
                    where = f"{example.source}:trajectory[{at}].action"
                    findings.append(Finding("data.unknown-label", where, what, mend))
        return findings

    def config(self) -> dict[str, Any]:
        if self.predicts == "tokens":
            return {}
        if self.predicts == "flow":
            assert self.known.action is not None
            return {"action_chunk": self.options.chunk, "action_size": len(self.known.action),
                    "action_layers": self.options.layers}  # fmt: skip
        names = self.labels or [f"number {at}" for at in range(self._outputs)]
        problem = "single_label_classification" if self.predicts != "regression" else "regression"
        ids = {name: at for at, name in enumerate(names)}
        return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": ids, "problem_type": problem}

    @property
    def _numbers(self) -> int:
        assert self.known.action is not None
        return self.options.chunk * len(self.known.action)

    @property
    def _outputs(self) -> int:
        return self._numbers * (self.options.bins if self.predicts == "bins" else 1)

    def from_config(self, config: Any) -> None:
        """All that it needs is in ``actions.json``: see ``recall``."""

    def keep(self, folder: Path) -> None:
        """``actions.json``: what actions are called, or how their numbers and those of states are scaled."""
        self.known.save(folder)

    def recall(self, folder: Path) -> None:
        """Raises Refused where the file is missing or damaged."""
        self.known = read_known(folder)

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        reading = Reading(self.options.history, self.known.state)
        self._ordered(backbone)
        room = room_before(self._numbers, limit) if self.predicts == "tokens" else limit
        most = room if overlong == "truncate" else None

        def encode(example: Example) -> list[Features]:
            return [self._row(backbone, reading, example, at, most) for at in asked_steps(example)]

        return encode

    def _ordered(self, backbone: Backbone) -> None:
        """Raises Refused where the order of frames would be lost."""
        count = self.options.history * self.pictures
        if count > 1 and isinstance(backbone, MultimodalBackbone) and not backbone.in_row:
            what = f"which of a row's {count} pictures is which would be lost, as they stand beside it"
            mend = "use `fuse: projection`, where pictures stand in the row"
            raise Refused(Finding("recipe.combination", "model.fuse", what, mend))

    def _row(self, backbone: Backbone, reading: Reading, example: Example, at: int, limit: int | None) -> Features:
        seen = reading.seen(example, at)
        if backbone.pictures is not None or seen.images:
            row = read_pictures(backbone, seen, limit)
        else:
            ids, full = cut_text(backbone.tokenizer, seen.text or "", limit)
            row = {"input_ids": ids, "full_length": full}
        step, last = (example.steps or [])[at], last_done(example, at)
        if self.known.action is None:
            target: Any = None if step.action is None else self.labels.index(str(step.action))
        else:
            target = None if step.action is None else chunk_of(example, at, self.options.chunk, self.known.action)
            last = None if last is None else self.known.action.scaled(last).tolist()  # type: ignore[arg-type]
        row |= {"target": target, "last": last, "weight": example.weight}
        if self.predicts == "tokens":
            return with_action_tokens(row, action_ids(backbone, self.options.bins), self._numbers)
        return row

    def _scores(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, np.ndarray]:
        if self.known.action is None:
            predicted = [self.labels[int(np.argmax(output))] for output in outputs]
            return scores.of_names(predicted, [self.labels[row["target"]] for row in rows], [r["last"] for r in rows])
        size, mean_A = len(self.known.action), self.known.action.scaled(self.known.action.mean)
        predicted_RA = np.array([self._chunk(output)[0] for output in outputs])
        last_RA = np.array([mean_A if row["last"] is None else row["last"] for row in rows])
        true_RA = np.array([row["target"][:size] for row in rows])
        return scores.of_numbers(predicted_RA, true_RA, last_RA, mean_A)

    def _chunk(self, output: Any) -> np.ndarray:
        """(H, A): the scaled chunk that a row's output stands for."""
        assert self.known.action is not None
        shape = self.options.chunk, len(self.known.action)
        if self.predicts == "flow":
            return np.asarray(output["chunk"]).reshape(shape)
        if self.predicts == "tokens":
            return middle_of(output["bins"], self.options.bins).reshape(shape)
        values = np.asarray(output)
        if self.predicts == "bins":
            values = middle_of(values.reshape(*shape, -1).argmax(-1), self.options.bins)
        return values.reshape(shape)

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self._scores(outputs, rows).items()}

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return scores.with_intervals(self._scores(outputs, rows), [row["row"] for row in rows])

    def parse(self, given: Any) -> Example:
        """What is seen now, or an episode so far: see ``observed``."""
        return observed(given)

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """Of what is seen now the next ``action``, with the ``chunk`` or ``probabilities``; of an episode all
        ``actions``, each from what was seen then. Raises Refused where a state is of other units."""
        if findings := foreign_units(examples, self.known):
            raise Refused(*findings)
        outputs = iter(ask.outputs(examples))
        return [self._answer(example, [next(outputs) for _ in asked_steps(example)]) for example in examples]

    def _answer(self, example: Example, outputs: list[Any]) -> dict[str, Any]:
        if any(step.action is not None for step in example.steps or ()):
            return {"actions": [self._done(output)["action"] for output in outputs]}
        return self._done(outputs[0])

    def _done(self, output: Any) -> dict[str, Any]:
        if self.known.action is not None:
            chunk = self.known.action.unscaled(self._chunk(output)).tolist()
            return {"action": chunk[0], "chunk": chunk}
        z_C = np.asarray(output)
        p_C = np.exp(z_C - z_C.max()) / np.exp(z_C - z_C.max()).sum()
        best = int(p_C.argmax())
        return {"action": self.labels[best], "probabilities": dict(zip(self.labels, p_C.tolist(), strict=True))}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """How much of what is done changes with another episode's instruction, and with its pictures."""
        examples = [example for example in examples[:SWAPPED] if asked_steps(example)]
        own = self._decided(ask, examples)
        found: Metrics = {}
        for name, swap in (("changed_by_instruction", other_text), ("changed_by_pictures", other_pictures)):
            pairs = [(at, other) for at in range(len(examples)) if (other := swap(examples, at)) is not None]
            if pairs:
                others = self._decided(ask, [other for _, other in pairs])
                shares = [np.mean(own[at] != other) for (at, _), other in zip(pairs, others, strict=True)]
                found[name] = {"value": float(np.mean(shares)), "n": len(shares)}
        return found

    def _decided(self, ask: Ask, examples: Sequence[Example]) -> list[np.ndarray]:
        """What is done at each step of each example: a class, or numbers in twentieths of their range."""
        outputs = iter(ask.outputs(examples))
        done = [[next(outputs) for _ in asked_steps(example)] for example in examples]
        if self.known.action is None:
            return [np.array([int(np.argmax(output)) for output in one]) for one in done]
        return [np.array([np.round(self._chunk(output)[0] * 10) for output in one]) for one in done]

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        steps = example.steps or []
        seen = f"{len(steps)} steps" + (f", {len(example.images)} pictures" if example.images else "")
        return f"{example.text or 'no instruction'} ({seen})", told_actions([step.action for step in steps])

    def shown_answer(self, answer: dict[str, Any]) -> str:
        return told_actions(answer["actions"] if "actions" in answer else [answer["action"]])

    def decided(self, answer: dict[str, Any]) -> str:
        return self.shown_answer(answer)

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        """Whether each step of an episode is named as it was done."""
        if self.known.action is not None or "actions" not in answer:
            return None
        return answer["actions"] == [step.action for step in example.steps or ()]

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        if self.known.action is not None:
            return None
        names = [self.labels[int(np.argmax(output))] for output in outputs]
        return [(self.labels[row["target"]], name) for row, name in zip(rows, names, strict=True)]
