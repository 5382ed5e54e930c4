"""Passages of an index put before each question, in training and in use alike: answers from one's own documents.

Retrieval-augmented generation (Lewis et al. 2020, arXiv 2005.11401) with a retriever that stays as it is: `data.index`
is searched with a row's question, and the `data.passages` nearest passages become the row's context, best first. A
task that reads a question with its context learns from them, and is asked with them. A context that a row brings is
taken out, and so are the places of answers in it: they tell whether the search found what it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.data.files.reading import Row
from luthier.data.formats.rows import reads_contexts
from luthier.data.split import normalised
from luthier.recipe import ResolvedRecipe
from luthier.runs.finding.search import Searcher, indexed_by
from luthier.types import Finding, Refused

QUESTION, CONTEXT = "question", "context"
COUNTED = ("asked", "judged", "missed")
OWN_CONTEXT, ANSWERS = ("context", "contexts"), ("answer", "answers", "output")


@dataclass
class Passages:
    """``told`` counts rows: ``asked``, ``judged`` (it is known what was to be found) and ``missed`` among these."""

    folder: Path
    k: int
    names: dict[str, str]
    told: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    @classmethod
    def of(cls, resolved: ResolvedRecipe, task: Any) -> Passages | None:
        """None where the recipe names no index, or the task's rows have no question with a context."""
        data = resolved.recipe.data
        if data.index is None or not reads_contexts(task.formats):
            return None
        names = {name: data.columns.get(name, name) for name in (QUESTION, CONTEXT)}
        return cls(resolved.base / data.index, data.passages, names)

    @cached_property
    def searcher(self) -> Searcher:
        """Raises Refused where there is no index, or its model is another one by now."""
        return Searcher(indexed_by(self.folder), self.folder)

    def into_rows(self, rows: list[Row]) -> tuple[list[Row], list[Finding]]:
        """Rows of a file with their passages as context; those that ask nothing are told, and left out."""
        asking, findings = [], []
        for source, row in rows:
            asked = row.get(self.names[QUESTION])
            if isinstance(asked, str) and asked.strip():
                asking.append((source, row))
                continue
            what = f"there is no `{self.names[QUESTION]}` to search passages for"
            mend = "give one, map it with `data.columns`, or leave `data.index` out"
            findings.append(Finding("data.no-question", f"{source}:{self.names[QUESTION]}", what, mend))
        if not asking:
            return [], findings
        from torch._subclasses.fake_tensor import unset_fake_temporarily

        try:
            with unset_fake_temporarily():  # a plan reads the same rows, where all else has no numbers
                found = self.searcher([row[self.names[QUESTION]] for _, row in asking], self.k)
        except Refused as refused:
            return [], [*findings, *refused.findings]
        self.told["asked"] += len(asking)
        made = []
        for (source, row), passages in zip(asking, found, strict=True):
            self._judge(row, passages)
            made.append((source, self._with(row, passages)))
        return made, findings

    def into_inputs(self, given: Sequence[Any]) -> tuple[list[Any], list[list[dict[str, Any]]]]:
        """The same for what a person asks: a text, a row, or turns that end in a question."""
        found = self.searcher([_asked(one, self.names[QUESTION]) for one in given], self.k)
        return [self._put(one, passages) for one, passages in zip(given, found, strict=True)], found

    def counted(self, where: str) -> tuple[dict[str, int], list[Finding]]:
        """The counts so far, which begin again, and a note of what was missed."""
        told, self.told = self.told, dict.fromkeys(COUNTED, 0)
        if not told["missed"]:
            return told, []
        what = f"for {told['missed']} of {told['judged']} questions none of the {self.k} passages answers it"
        mend = "give more of them (`data.passages`), or tune the encoder (`task: retrieve`) and index with it"
        why = "such a row is answered from passages that don't hold the answer"
        return told, [Finding("data.passages-missed", where, what, mend, why, "note")]

    def _put(self, one: Any, passages: list[dict[str, Any]]) -> Any:
        if turns := _turns(one):
            text = f"{joined(passages)}\n\n{turns[-1]['content']}"
            turns = [*turns[:-1], {**turns[-1], "content": text}]
            return {**one, "messages": turns} if isinstance(one, dict) else turns
        row = one if isinstance(one, dict) else {self.names[QUESTION]: str(one)}
        return {QUESTION: row.get(self.names[QUESTION]), CONTEXT: joined(passages)}

    def _with(self, row: dict[str, Any], passages: list[dict[str, Any]]) -> dict[str, Any]:
        kept = {name: _without_places(value) for name, value in row.items() if name not in OWN_CONTEXT}
        return kept | {self.names[CONTEXT]: joined(passages)}

    def _judge(self, row: dict[str, Any], passages: list[dict[str, Any]]) -> None:
        """Found is what lies in the row's own context (or the other way round), or, without one, what holds an answer.

        The second as in Karpukhin et al. 2020 (arXiv 2004.04906), section 5.
        """
        contexts = _texts(*(row.get(name) for name in (*OWN_CONTEXT, self.names[CONTEXT])))
        wanted = contexts or _texts(*(row.get(name) for name in ANSWERS))
        if not wanted:
            return
        texts = [normalised(passage["text"]) for passage in passages]
        found = any(one in text or (bool(contexts) and text in one) for one in wanted for text in texts)
        self.told["judged"] += 1
        self.told["missed"] += not found


def joined(passages: list[dict[str, Any]]) -> str:
    return "\n\n".join(passage["text"] for passage in passages)


def _turns(one: Any) -> list[dict[str, Any]]:
    """The turns of an input that is a conversation."""
    return list(one.get("messages") or []) if isinstance(one, dict) else one if isinstance(one, list) else []


def _asked(one: Any, name: str) -> str:
    if turns := _turns(one):
        return str(turns[-1].get("content") or "")
    return str(one.get(name) or "") if isinstance(one, dict) else str(one)


def _without_places(value: Any) -> Any:
    """Answers as texts alone, where they also tell their places in a context."""
    return value["text"] if isinstance(value, dict) and "answer_start" in value and "text" in value else value


def _texts(*values: Any) -> list[str]:
    """The texts among values: texts, lists of them, or SQuAD's answers."""
    several = [inner for value in values for inner in (_without_places(value) if isinstance(value, dict) else value,)]
    flat = [text for value in several for text in (value if isinstance(value, list) else [value])]
    return [told for text in flat if isinstance(text, str) and (told := normalised(text))]
