"""Tag the words of a text: its entities (a BIO, IOB1 or BIOES tag a word), or a tag of its own for every word.

A word is read at its first token (Devlin et al. 2019), and at its last where the model sees only what comes before.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from luthier.data.formats.tagged import places_of, tags_of, untagged
from luthier.data.text.tags import OUTSIDE, broken, has_entities, parted, scheme_of
from luthier.data.text.words import windows
from luthier.evaluate import tagging
from luthier.evaluate.intervals import Metrics
from luthier.evaluate.marked import Tagged, answered, expected, marked, spans
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.types import INLINE, Example, Features, Finding

DEFAULTS = {"batch_size": 16, "overlong": "truncate", "epochs": 3.0}
MARKS = {"bio": "BI", "iob1": "IB", "bioes": "BIES"}
NAMED = 20  # rows that are told one by one
TREATED = {
    "bio": "I- without B- is read as the beginning of an entity",
    "iob1": "a B- that follows nothing of its type is read as a beginning",
    "bioes": "what does not go on is read as a beginning, what does not end as an end",
}


class Options(Section):
    scheme: Literal["auto", "bio", "iob1", "bioes", "plain"] = Field(
        "auto", description="how tags spell entities (plain: they spell none); default: told by the tags"
    )
    names: list[str] = Field(default_factory=list, description="of tags that are given as numbers, from 0 on")
    windows: bool = Field(
        True, description="read rows over `max_length` in windows that overlap, where `overlong` is truncate; else cut"
    )
    read: Literal["auto", "first", "last"] = Field(
        "auto", description="the token of a word that is read; default: first, or last where the model is causal"
    )


class Task:
    formats = ("tokens-tags", "text-spans")
    writes_from_source = False
    sample_options: dict[str, Any] = {}

    def __init__(self, options: Options):
        self.options, self.scheme = options, str(options.scheme)
        self.kind, self.labels = "entities", list[str]()

    @property
    def metric(self) -> str:
        return next(iter(tagging.METRICS[self.kind]))

    @property
    def metrics(self) -> dict[str, bool]:
        return {"loss": False, **tagging.METRICS[self.kind]}

    def objective(self) -> str:
        return "tags"

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        findings = self._name(train)
        rows = [tags_of(example) for example in train]
        names = {tag for tags in rows for tag in tags}
        if all(name.isdigit() for name in names):
            what, mend = "the tags are numbers, and nothing says what they mean", "give `tag.names: [O, B-PER, ...]`"
            return [*findings, Finding("data.tag-names", "data.train", what, mend)]
        if self.scheme == "auto":
            self.scheme = scheme_of(rows)
        if self.scheme != "plain" and not has_entities(names):
            what = f"`tag.scheme: {self.scheme}` does not fit tags like {', '.join(sorted(names)[:5])}"
            return [*findings, Finding("data.tag-scheme", "tag.scheme", what, "take `plain`, or leave it out")]
        self.kind = "plain" if self.scheme == "plain" else "entities"
        self.labels = _labels(names, self.scheme)
        if len(names) < 2:
            what = f"every word of the {len(train)} rows has the tag {', '.join(names)}"
            findings.append(Finding("data.single-class", "data.train", what, "give rows with at least two tags"))
        return [*findings, *self.unknown(evaluation), *self._broken([*train, *evaluation])]

    def _name(self, examples: Sequence[Example]) -> list[Finding]:
        """Numbers become their names, in place."""
        names, findings = self.options.names, []
        for example in examples if names else ():
            for at, (start, end, tag) in enumerate(example.spans or ()):
                if tag.isdigit() and int(tag) < len(names):
                    example.spans[at] = (start, end, names[int(tag)])  # type: ignore[index]
                elif tag not in names:
                    what = f"the tag {tag} is none of the {len(names)} in `tag.names`"
                    findings.append(Finding("data.tag-names", f"{example.source}:tags[{at}]", what, "add its name"))
        return findings

    def _broken(self, examples: Sequence[Example]) -> list[Finding]:
        found = [(example, broken(tags_of(example), self.scheme)) for example in examples]
        found = [(example, places) for example, places in found if places]
        findings = []
        for example, places in found[:NAMED]:
            word, what = places[0]
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            where, text = f"{example.source}:tags[{word}]", f"{what} in the {self.scheme} scheme{more}"
            findings.append(Finding("data.tag-sequence", where, text, TREATED[self.scheme], severity="warning"))
        if len(found) > NAMED:
            what = f"{len(found)} rows break the {self.scheme} scheme"
            findings.append(Finding("data.tag-sequence", "data", what, TREATED[self.scheme], severity="warning"))
        return findings

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """Tags that the model does not know, by row."""
        findings = self._name(examples)
        for example in examples:
            for name in sorted({*tags_of(example)} - {*self.labels}):
                near = difflib.get_close_matches(name, self.labels, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"tags in train: {', '.join(self.labels[:10])}"
                what = f"the tag {name!r} is not in the training rows"
                findings.append(Finding("data.unknown-label", f"{example.source}:tags", what, mend))
        return findings

    def config(self) -> dict[str, Any]:
        ids = {name: at for at, name in enumerate(self.labels)}
        return {"num_labels": len(ids), "id2label": dict(enumerate(self.labels)), "label2id": ids}

    def from_config(self, config: Any) -> None:
        self.labels = [config.id2label[at] for at in sorted(config.id2label)]
        self.kind = "entities" if has_entities(self.labels) and self.options.scheme != "plain" else "plain"

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        last = self.options.read == "last" or (self.options.read == "auto" and backbone.causal)
        several = self.options.windows and overlong == "truncate"

        def encode(example: Example) -> list[Features]:
            places, tags = places_of(example), tags_of(example)
            found = windows(backbone.tokenizer, example.text or "", places, limit, several=several, last=last)
            for row in found:
                row["targets"] = [self.labels.index(tags[word]) for word in row["words"]] if tags else None
                row["weight"] = example.weight
            return found

        return encode

    def _tagged(self, outputs: Sequence[Any], rows: Sequence[Features]) -> tuple[list[list[str]], list[list[str]]]:
        """(predicted, expected) tags of each example."""
        found = answered(outputs)
        pairs = [(self._names(found[number], len(targets)), targets) for number, targets in expected(rows)]
        return [ours for ours, _ in pairs], [[self.labels[target] for target in targets] for _, targets in pairs]

    def _names(self, found: Tagged, words: int) -> list[str]:
        """A word without a token counts as outside of every entity."""
        return [self.labels[found[word][0]] if word in found else OUTSIDE for word in range(words)]

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return tagging.plain(*self._tagged(outputs, rows), self.kind)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return tagging.with_intervals(*self._tagged(outputs, rows), self.kind)

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return tagging.confused(*self._tagged(outputs, rows), self.kind)

    def parse(self, given: Any) -> Example:
        """A text, or a row with ``tokens`` or a ``text``."""
        if isinstance(given, dict) and "text" not in given:
            tokens: Any = next((given[name] for name in ("tokens", "words") if name in given), [])
            return untagged(tokens.split() if isinstance(tokens, str) else tokens)
        return Example(INLINE, text=given["text"] if isinstance(given, dict) else str(given))

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """``entities`` (of the kind "plain" ``words``): parts of ``text`` with label and score; and the ``tags`` of the
        words that it came with."""
        found = answered(ask.outputs(examples))
        return [self._answer(example, found.get(number, {})) for number, example in enumerate(examples)]

    def _answer(self, example: Example, found: Tagged) -> dict[str, Any]:
        text, places = example.text or "", places_of(example)
        tags = self._names(found, len(places))
        scores = [found[word][1] if word in found else None for word in range(len(places))]
        name = "entities" if self.kind == "entities" else "words"
        told = {"text": text, name: spans(text, places, tags, self.kind, scores)}
        return told if example.spans is None else told | {"tags": tags}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        text = example.text or ""
        return text, marked(text, spans(text, places_of(example), tags_of(example), self.kind))

    def shown_answer(self, answer: dict[str, Any]) -> str:
        return marked(answer["text"], answer["entities" if self.kind == "entities" else "words"])

    def decided(self, answer: dict[str, Any]) -> str:
        return self.shown_answer(answer)

    def marks(self, example: Example, answer: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        wanted = spans(example.text or "", places_of(example), tags_of(example), self.kind)
        return {"target": wanted, "after": answer["entities" if self.kind == "entities" else "words"]}

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return self.shown_answer(answer) == self.shown(example)[1]


def _labels(names: set[str], scheme: str) -> list[str]:
    """The tags in order; of entities every mark of each type: its I- is known where only its B- was seen."""
    if scheme == "plain":
        return sorted(names, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    letters = "BILU" if {name[0] for name in names} & {"L", "U"} else MARKS[scheme]
    kinds = sorted({parted(name)[1] for name in names if name != OUTSIDE})
    return [OUTSIDE, *(f"{mark}-{kind}" if kind else mark for kind in kinds for mark in letters)]
