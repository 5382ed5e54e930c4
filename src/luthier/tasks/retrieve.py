"""Find texts by what they mean: text embeddings from queries with passages that answer them, or from scored pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from luthier.data.lengths import cut_text
from luthier.data.split import normalised
from luthier.evaluate import retrieval
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.types import INLINE, Example, Features, Finding

DEFAULTS = {"batch_size": 64, "overlong": "truncate", "epochs": 3.0}
SHOWN = 300  # characters of a passage


class Options(Section):
    query_prefix: str = Field("", description='before each query, such as "query: "; scored pairs take it twice')
    passage_prefix: str = Field("", description='before each passage, such as "passage: "')

    @field_validator("query_prefix", "passage_prefix", mode="before")
    @classmethod
    def spelled(cls, given: Any) -> Any:
        """``retrieve.query_prefix="query: "`` on a command line is read by YAML as a mapping without a value."""
        return f"{next(iter(given))}: " if isinstance(given, dict) and list(given.values()) == [None] else given


class Task:
    formats = ("scored-pair", "query-positive")
    writes_from_source = False
    sample_options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()

    def __init__(self, options: Options):
        self.query_prefix, self.passage_prefix = options.query_prefix, options.passage_prefix
        self.scored = False

    @property
    def metric(self) -> str:
        return "spearman" if self.scored else "ndcg@10"

    @property
    def metrics(self) -> dict[str, bool]:
        return retrieval.SCORED if self.scored else retrieval.RANKED

    def objective(self) -> str:
        return "contrastive"

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """Whether rows have scores, which must be more than one."""
        self.scored = train[0].label is not None
        mixed = [example for example in [*train, *evaluation] if (example.label is not None) != self.scored]
        if mixed:
            what = "some rows have a score and some have none: they are learned from in different ways"
            return [Finding("data.mixed-formats", str(mixed[0].source), what, "train on one kind at a time")]
        if self.scored and len({example.label for example in train}) == 1:
            what = f"all {len(train)} scores are {train[0].label:g}"
            mend = "give pairs of different scores, or pairs without one as query and positive"
            return [Finding("data.single-score", "data.train", what, mend)]
        return []

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        return []

    def config(self) -> dict[str, Any]:
        return {}

    def from_config(self, config: Any) -> None:
        pass

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        def ids(text: str) -> tuple[list[int], int]:
            return cut_text(backbone.tokenizer, text, limit if overlong == "truncate" else None)

        def encode(example: Example) -> list[Features]:
            """One row for each positive; a row without any is a query alone."""
            scored = example.label is not None
            second = self.query_prefix if scored else self.passage_prefix
            query, negatives = example.text or "", example.negatives or []
            several = []
            for positive in example.targets or [None]:  # type: ignore[list-item]
                texts = [] if positive is None else [positive, *negatives]
                told = [ids(self.query_prefix + query.strip()), *(ids(second + text.strip()) for text in texts)]
                several.append(
                    {
                        "input_ids": [token for found, _ in told for token in found],
                        "lengths": [len(found) for found, _ in told],
                        "keys": [content(text) for text in (query, *texts)],
                        "weight": example.weight,
                        "full_length": max(full for _, full in told),
                    }
                    | ({"score": float(example.label)} if scored else {})  # type: ignore[arg-type]
                )
            return several

        return encode

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return retrieval.plain(outputs)

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return retrieval.with_intervals(outputs)

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def parse(self, given: Any) -> Example:
        """A text is a query, which is answered by its vector; a row may bring passages, which are ranked for it."""
        if not isinstance(given, dict):
            return Example(INLINE, text=str(given))
        names = ("query", "anchor", "question", "sentence1", "text")
        query = str(next((given[name] for name in names if name in given), ""))
        if "sentence2" in given:
            return Example(INLINE, text=query, targets=[str(given["sentence2"])], label=0.0)
        found = [given[name] for name in ("positive", "context", "passages", "negatives", "negative") if name in given]
        texts = [str(text) for one in found for text in (one if isinstance(one, list) else [one])]
        return Example(INLINE, text=query, targets=texts[:1] or None, negatives=texts[1:] or None)

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """The vector of a text alone; the similarity of a pair; of a query with passages the first one among those
        of all examples, and the place of its own."""
        firsts = [
            Example(e.source, text=e.text, targets=(e.targets or [])[:1] or None, negatives=e.negatives, label=e.label)
            for e in examples
        ]
        alone = [i for i, example in enumerate(firsts) if not example.targets]
        told = [i for i, example in enumerate(firsts) if example.targets]
        answers: dict[int, dict[str, Any]] = {}
        for those in (alone, told):
            some = [firsts[i] for i in those]
            for i, settled in zip(those, ask.outputs(some) if some else [], strict=True):
                answers[i] = _answer(settled, some)
        return [answers[i] for i in range(len(examples))]

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        target = (example.targets or [""])[0]
        if example.label is not None:
            return f"{example.text} ↔ {_short(target)}", f"{example.label:g}"
        return example.text or "", _short(target)

    def shown_answer(self, answer: dict[str, Any]) -> str:
        if "vector" in answer:
            return f"[{', '.join(f'{x:.4f}' for x in answer['vector'][:4])}, ...]"
        if "passage" not in answer:
            return f"{answer['similarity']:.3f}"
        return f"{_short(answer['passage'])} (its own in place {answer['place']})"

    def decided(self, answer: dict[str, Any]) -> str:
        return answer.get("passage", "") or self.shown_answer(answer)

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return answer["place"] == 1 if "place" in answer else None

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None


def content(text: str) -> int:
    """A number that is equal for texts that say the same: case, spaces and end signs don't count."""
    digest = hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _answer(settled: dict[str, Any], examples: Sequence[Example]) -> dict[str, Any]:
    if "vector" in settled or "score" in settled:
        return {key: settled[key] for key in ("vector", "similarity") if key in settled}
    row, text = settled["best"]
    passages = [*(examples[row].targets or []), *(examples[row].negatives or [])]
    return {"passage": passages[text - 1], "place": settled["places"][0], "similarity": settled["similarity"]}


def _short(text: str) -> str:
    return text[:SHOWN] + ("…" if len(text) > SHOWN else "")
