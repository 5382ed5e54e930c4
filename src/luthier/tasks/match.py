"""Pictures, or sounds, with texts that say what they are: vectors by which each finds the other; classes by name."""

from __future__ import annotations

import difflib
import math
import os.path
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import Field, field_validator

from luthier.data.formats.audio import AUDIO
from luthier.data.formats.audio import ENDINGS as HEARD
from luthier.data.media.pictures import ENDINGS, missing
from luthier.evaluate import matching
from luthier.evaluate.intervals import Metrics, mean_interval
from luthier.models.backbone import Backbone
from luthier.models.joined.dual import DualBackbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.matched import several, shown_by, unusable
from luthier.tasks.pictures import picture_example, told_pictures
from luthier.tasks.retrieve import content
from luthier.tasks.sounds import sound_example, told_sounds
from luthier.types import INLINE, Example, Features, Finding, Refused

DEFAULTS = {"batch_size": 64, "overlong": "truncate", "epochs": 3.0}
SHOWN = 200  # characters of a caption


class Options(Section):
    templates: list[str] = Field(
        ["a photo of a {}."], min_length=1, description="a class as a text: the mean of their vectors is the class's"
    )
    labels: list[str] = Field(
        [], description="the classes to choose from where rows have a label; default: those of the rows that are judged"
    )

    @field_validator("templates", mode="before")
    @classmethod
    def one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("labels", mode="before")
    @classmethod
    def numbers_are_names(cls, given: Any) -> Any:
        return [str(one) if type(one) is int else one for one in given] if isinstance(given, list) else given

    @field_validator("labels")
    @classmethod
    def differ(cls, given: list[str]) -> list[str]:
        seen: dict[int, str] = {}
        for name in given:
            if not name.strip():
                raise ValueError("a class has no name")
            if (same := seen.setdefault(content(name), name)) is not name:
                raise ValueError(f"{same!r} and {name!r} say the same: name each class once")
        if len(given) == 1:
            raise ValueError(f"{given[0]!r} alone is no choice: name two classes at least")
        return given

    @field_validator("templates")
    @classmethod
    def has_a_place(cls, given: list[str]) -> list[str]:
        if bad := [one for one in given if "{}" not in one]:
            raise ValueError(f"{bad[0]!r} has no {{}} where the name of the class would stand")
        return given


class Task:
    formats = ("image-caption", "image-label", "audio-text", "audio-label")
    writes_from_source = False
    splits = False
    sample_options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()

    def __init__(self, options: Options):
        self.templates, self.choices = options.templates, options.labels
        self.classed = self.listens = False

    @property
    def metric(self) -> str:
        return "accuracy" if self.classed else "mean_recall"

    @property
    def metrics(self) -> dict[str, bool]:
        return matching.CLASSED if self.classed else matching.RANKED

    def objective(self) -> str:
        return "image_text"

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """Whether rows have captions or classes, of which there must be two."""
        self.classed = train[0].label is not None
        mixed = [example for example in [*train, *evaluation] if (example.label is not None) != self.classed]
        if mixed:
            what = "some rows have a label and some a caption: they are judged in different ways"
            return [Finding("data.mixed-formats", str(mixed[0].source), what, "train on one kind at a time")]
        said = {content(text) for example in train for text in self._texts(example)[:1]}
        if len(said) < 2:
            what = f"all {len(train)} rows say the same: there is nothing to tell them from"
            return [Finding("data.single-class", "data.train", what, "give rows of at least two captions or classes")]
        both = [*train, *evaluation]
        return [found for example in both if (found := several(example))] + self.unknown(both)

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """Labels that are not among the recipe's, where it names them."""
        known = {content(name): name for name in self.choices}
        findings = []
        for example in examples if known else []:
            if example.label is not None and content(str(example.label)) not in known:
                near = difflib.get_close_matches(str(example.label), self.choices, n=1)
                mend = f"did you mean {near[0]!r}?" if near else "name it there, or leave the row out"
                what = f"the label {str(example.label)!r} is not in `match.labels`"
                findings.append(Finding("data.unknown-label", f"{example.source}:label", what, mend))
        return findings

    def config(self) -> dict[str, Any]:
        return {}

    def from_config(self, config: Any) -> None:
        pass

    def _texts(self, example: Example) -> list[str]:
        """The captions of a row, or its class in every template."""
        if example.label is None:
            return list(example.targets or [])
        return [template.replace("{}", str(example.label)) for template in self.templates]

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        assert isinstance(backbone, DualBackbone)
        cut, self.listens = limit if overlong == "truncate" else None, backbone.sounds is not None

        def encode(example: Example) -> list[Features]:
            """One row for each caption, one for a class; a picture or a text may stand alone. Negatives come last."""
            findings = unusable(backbone, example)
            if findings:
                raise Refused(*findings)
            texts, images, paired = self._texts(example), shown_by(example), bool(example.targets)
            apart, others = (example.negatives or [], example.negative_images or []) if paired else ([], [])
            each = [texts] if example.label is not None or not texts else [[text] for text in texts]
            rows = []
            for some in each:
                row = backbone.pair_row([*images, *others], [*some, *apart], cut)
                name = str(example.label) if example.label is not None else some[0] if some else ""
                shown = [int(key[:15], 16) for key in row["pictures"]] or [0]
                row["keys"] = [shown[0], content(name), *map(content, apart), *shown[1:]]
                row |= {"own": len(some), "weight": example.weight, "classed": example.label is not None}
                rows.append(row)
                if images and example.label is not None:
                    rows[-1]["classes"] = classes()
            return rows

        @cache
        def classes() -> list[Features]:
            """Those of the recipe, as texts alone: one list for all rows."""
            return [encode(Example(INLINE, label=name))[0] | {"row": -1} for name in self.choices]

        return encode

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        if rows and rows[0]["classed"]:
            return {"accuracy": sum(_named(out) for out in outputs) / len(outputs)}
        return matching.plain(outputs)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        if rows and rows[0]["classed"]:
            return {"accuracy": mean_interval([float(_named(out)) for out in outputs])}
        return matching.with_intervals(outputs)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def parse(self, given: Any) -> Example:
        """A picture's path (or a sound's), a text, or a row: ``image`` (or ``audio``) with ``texts`` or ``labels`` to
        choose from."""
        if isinstance(given, str) and not os.path.isfile(given):
            if lost := missing(given, HEARD if self.listens else ENDINGS):
                raise Refused(lost)
            return Example(INLINE, targets=[given])
        row = given if isinstance(given, dict) else {"audio" if self.listens else "image": given}
        named = AUDIO if self.listens else ("image", "images")
        if not any(name in row for name in named):
            return Example(INLINE, targets=[str(row.get("text", row.get("caption", "")))])
        example = sound_example(row) if self.listens else picture_example(row)
        texts = next((row[name] for name in ("texts", "captions", "caption", "text") if name in row), None)
        labels = row.get("labels", row.get("classes"))
        example.text, example.targets = None, [texts] if isinstance(texts, str) else texts
        example.negatives = [str(label) for label in labels] if labels else None
        return example

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """The vector of a picture or a text alone; of a picture with texts or classes to choose from how probable each
        is; the caption or class, among those of all examples, that is nearest to the picture of a row that has one."""
        answers: dict[int, dict[str, Any]] = {}
        choose = [
            i for i, e in enumerate(examples) if e.source == INLINE and shown_by(e) and (e.targets or e.negatives)
        ]
        paired = [i for i, e in enumerate(examples) if i not in choose and shown_by(e) and self._texts(e)]
        for i in choose:
            answers[i] = self._choice(ask, examples[i])
        for i, answer in zip(paired, self._nearest(ask, [examples[i] for i in paired]), strict=True):
            answers[i] = answer
        alone = [i for i in range(len(examples)) if i not in answers]
        for kind in (True, False):
            those = [i for i in alone if bool(shown_by(examples[i])) is kind]
            some = [_alone(examples[i], examples[i].targets) for i in those]
            answers.update(zip(those, ask.outputs(some) if some else [], strict=True))
        return [answers[i] for i in range(len(examples))]

    def _choice(self, ask: Ask, example: Example) -> dict[str, Any]:
        """Softmax of the logits over the choices; of a model with a bias the sigmoid of each, as it was trained."""
        backbone = ask.backbone
        assert isinstance(backbone, DualBackbone)
        names = example.negatives or example.targets or []
        # A class is encoded with its templates, a text as it is; the picture beside each is computed once a batch.
        picture = ask.outputs([_alone(example)])[0]["vector"]
        told = [Example(INLINE, label=n) if example.negatives else Example(INLINE, targets=[n]) for n in names]
        cosines = [math.fsum(a * b for a, b in zip(picture, out["vector"], strict=True)) for out in ask.outputs(told)]
        scale, bias = (float(p.detach()) if (p := backbone.logit(n)) is not None else None for n in _LOGITS)
        logits = [cosine * math.exp(scale or 0.0) + (bias or 0.0) for cosine in cosines]
        top = max(logits)
        weights = [math.exp(logit - top) for logit in logits]
        chances = [w / sum(weights) for w in weights] if bias is None else [1 / (1 + math.exp(-z)) for z in logits]
        order = sorted(range(len(names)), key=lambda at: -logits[at])
        probabilities = {names[at]: chances[at] for at in order}
        return {"label": names[order[0]], "probability": chances[order[0]], "probabilities": probabilities}

    def _nearest(self, ask: Ask, examples: list[Example]) -> list[dict[str, Any]]:
        firsts = [replace(e, targets=(e.targets or [])[:1] or None) for e in examples]
        told = [str(e.label) if e.label is not None else (e.targets or [""])[0] for e in firsts]
        outputs = ask.outputs(firsts) if firsts else []
        known = {content(name) for name in told}
        # As the loss lays them beside the rows: negatives, then classes.
        apart = [text for e in firsts if e.targets for text in e.negatives or []]
        told += {content(text): text for text in apart if content(text) not in known}.values()
        told += [name for name in self.choices if content(name) not in known]
        return [
            {"caption": told[out["best_text"]], "place": out["image_to_text"], "similarity": out["similarity"]}
            for out in outputs
        ]

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        said = str(example.label) if example.label is not None else _short((example.targets or [""])[0])
        shown = [*told_pictures(example), *told_sounds(example)]
        return (" ".join(shown), said) if shown else (said, "")

    def shown_answer(self, answer: dict[str, Any]) -> str:
        if "vector" in answer:
            return f"[{', '.join(f'{x:.4f}' for x in answer['vector'][:4])}, ...]"
        if "probabilities" in answer:
            return f"{answer['label']} ({answer['probability']:.2f})"
        return f"{_short(answer['caption'])} (its own in place {answer['place']})"

    def decided(self, answer: dict[str, Any]) -> str:
        return answer.get("caption", answer.get("label", "")) or self.shown_answer(answer)

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return answer["place"] == 1 if "place" in answer else None

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None


_LOGITS = ("logit_scale", "logit_bias")


def _named(out: dict[str, Any]) -> bool:
    """Whether a picture's class is the nearest."""
    return out["image_to_text"] == 1


def _alone(example: Example, targets: list[str] | None = None) -> Example:
    return Example(INLINE, images=example.images, sounds=example.sounds, targets=targets)


def _short(text: str) -> str:
    return text[:SHOWN] + ("…" if len(text) > SHOWN else "")
