"""The extractive kind of `answer`: a span of the context, over overlapping windows where it is long.

Each window is ``[question] [a part of the context]``; the best span over all windows is the answer, cut from the
context by characters. Where unanswerable questions were learned, none is given if the lowest score of a window's null
exceeds the best span's by more than a threshold (Devlin et al. 2019, arXiv 1810.04805, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.evaluate import answers
from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.tasks.common import Ask, Encoder
from luthier.types import INLINE, Example, Features, Finding, Refused, Span

if TYPE_CHECKING:
    from luthier.tasks.answer import Options

NAMED = 20  # rows that are told one by one
LEAST_CONTEXT = 16  # tokens of a window


class Extract:
    formats = ("squad",)
    writes_from_source = False
    splits = False
    sample_options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()
    metric = "f1"
    metrics = {"loss": False, **answers.METRICS}

    def __init__(self, options: Options):
        self.options = options

    def objective(self) -> str:
        return "span"

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """Places that are wrong or not told are found where that is sure; what the context lacks is told by row."""
        examples = [*train, *evaluation]
        moved = sum(self._place(example) for example in examples)
        findings = self._absent(examples)
        if moved:
            what = (
                f"{moved} answer(s) have no place in their context, or a wrong one: the nearest that says so is taken"
            )
            findings.append(Finding("data.answer-moved", "data.train", what, severity="note"))
        if self.options.unanswerable is None:
            self.options.unanswerable = any(not example.spans for example in train)
        return findings

    def _place(self, example: Example) -> int:
        """Mend the places of an example's answers; how many were mended. What is not there keeps a place below 0."""
        text, mended, placed = example.text or "", 0, list[Span]()
        for start, end, answer in example.spans or []:
            if start < 0 or text[start:end] != answer:
                at = _nearest(text, answer, start)
                mended += at >= 0
                start, end = at, at + len(answer)
            placed.append((start, end, answer))
        example.spans = placed
        return mended

    def _absent(self, examples: Sequence[Example]) -> list[Finding]:
        absent = [(example, next((s for s in example.spans or [] if s[0] < 0), None)) for example in examples]
        lost = [(example, span[2]) for example, span in absent if span is not None]
        for example, _ in lost:
            example.spans = [span for span in example.spans or [] if span[0] >= 0]
        if self.options.absent == "unanswerable":
            return []
        mend = "mend it; `answer.absent: unanswerable` learns such a question as one without an answer; or use "
        mend += "`answer.kind: write`"
        findings = [
            Finding(
                "data.answer-absent", f"{example.source}:answers", f"{answer!r} does not stand in the context", mend
            )
            for example, answer in lost[:NAMED]
        ]
        if len(lost) > NAMED:
            what = f"{len(lost)} rows have an answer that does not stand in their context"
            findings.append(Finding("data.answer-absent", "data", what, mend))
        return findings

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        return []

    def config(self) -> dict[str, Any]:
        return {}

    def from_config(self, config: Any) -> None:
        pass

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        tokenizer: Any = backbone.tokenizer
        if not tokenizer.is_fast:
            what = f"{type(tokenizer).__name__} does not say which characters a token came from"
            mend = "use a model whose folder has a tokenizer.json"
            raise Refused(
                Finding("template.slow-tokenizer", "model.name", what, mend, "answers are found by characters")
            )

        def encode(example: Example) -> list[Features]:
            asked = len(tokenizer(example.question or "")["input_ids"])
            room = limit - asked - 2
            if room < LEAST_CONTEXT:
                what = f"the question takes {asked} of {limit} tokens, and leaves none for a context"
                raise Refused(Finding("data.too-long", f"{example.source}:question", what, "shorten it"))
            found = tokenizer(
                example.question, example.text, truncation="only_second", max_length=limit,
                stride=int(self.options.stride * room), return_overflowing_tokens=overlong == "truncate",
                return_offsets_mapping=True, verbose=False,
            )  # fmt: skip
            windows = found["input_ids"] if overlong == "truncate" else [found["input_ids"]]
            return [self._row(example, found, number) for number in range(len(windows))]

        return encode

    def _row(self, example: Example, found: Any, number: int) -> Features:
        encoding = found.encodings[number]
        offsets = [
            place if side == 1 else None for place, side in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        ]
        labelled = example.targets is not None
        return {
            "input_ids": list(encoding.ids), "offsets": offsets, "longest": self.options.max_tokens,
            "target": _target(offsets, example.spans or []) if labelled else None, "weight": example.weight,
            "full_length": len(encoding.ids), "context": example.text or "", "answers": example.targets or [],
        }  # fmt: skip

    def _given(self, outputs: Sequence[dict[str, Any]], contexts: dict[int, str]) -> dict[int, dict[str, Any]]:
        """The answer to each question, by the number of its example: over all its windows."""
        windows: dict[int, list[dict[str, Any]]] = {}
        for output in outputs:
            windows.setdefault(output["row"], []).append(output)
        return {number: self._best(of_one, contexts[number]) for number, of_one in windows.items()}

    def _best(self, windows: list[dict[str, Any]], context: str) -> dict[str, Any]:
        spans = sorted({tuple(span) for window in windows for span in window["spans"]}, reverse=True)
        null = min(window["null"] for window in windows)
        none = {"answer": "", "start": None, "end": None, "score": null}
        if not spans or (self.options.unanswerable and null > spans[0][0] + self.options.null_threshold):
            return none
        score, start, end = spans[0]
        return {"answer": context[start:end], "start": start, "end": end, "score": score}

    def _judged(self, outputs: Sequence[Any], rows: Sequence[Features]) -> tuple[list[str], list[list[str]]]:
        known = {row["row"]: row for row in rows}
        found = self._given(outputs, {number: row["context"] for number, row in known.items()})
        return [found[number]["answer"] for number in known], [row["answers"] for row in known.values()]

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        return answers.plain(*self._judged(outputs, rows))

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        return answers.with_intervals(*self._judged(outputs, rows))

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None

    def parse(self, given: Any) -> Example:
        """A row with ``question`` and ``context``."""
        if not (isinstance(given, dict) and given.get("question") and given.get("context")):
            what = "an answer is found in a context: give a row with `question` and `context`"
            mend = 'such as {"question": "Who wrote it?", "context": "Ada wrote it."}'
            raise Refused(Finding("run.question", "input", what, mend))
        return Example(INLINE, question=str(given["question"]), text=str(given["context"]))

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """``answer``, cut from the context at ``start`` to ``end`` (characters), and its ``score``; "" where none."""
        contexts = {number: example.text or "" for number, example in enumerate(examples)}
        found = self._given(ask.outputs(examples), contexts)
        return [found[number] for number in range(len(examples))]

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        return {}

    def terminators(self, backbone: Backbone) -> list[int]:
        return []

    def shown(self, example: Example) -> tuple[str, str]:
        targets = example.targets or []
        return f"{example.question}\n\n{example.text}", targets[0] if targets else "(no answer)"

    def shown_answer(self, answer: dict[str, Any]) -> str:
        return answer["answer"] or "(no answer)"

    def decided(self, answer: dict[str, Any]) -> str:
        return answer["answer"]

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return bool(answers.scores(answer["answer"], example.targets or [])[0])


def _nearest(text: str, answer: str, start: int) -> int:
    """Where ``answer`` stands in ``text``, nearest to ``start``; the first place where none is told; -1: nowhere."""
    places, at = [], text.find(answer)
    while at >= 0 and answer:
        places.append(at)
        at = text.find(answer, at + 1)
    return min(places, key=lambda place: abs(place - start) if start >= 0 else place, default=-1)


def _target(offsets: Sequence[tuple[int, int] | None], spans: Sequence[Span]) -> tuple[int, int]:
    """(first, last) token of the first answer; (0, 0) where this window does not hold it whole."""
    if not spans:
        return 0, 0
    start, end, _ = spans[0]
    inside = [(at, place) for at, place in enumerate(offsets) if place is not None and place[1] > place[0]]
    if not inside or start < inside[0][1][0] or end > inside[-1][1][1]:
        return 0, 0
    first = next(at for at, place in inside if place[1] > start)
    last = next(at for at, place in reversed(inside) if place[0] < end)
    return (first, last) if first <= last else (0, 0)
