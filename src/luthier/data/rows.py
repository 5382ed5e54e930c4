"""The formats that a row can have, and the example that a row of each stands for.

| name | columns (any of) | becomes |
|---|---|---|
| messages | messages; tools? | messages |
| sharegpt | conversations or conversation; system?, tools? | messages |
| alpaca | instruction, output or response; input?, system? | messages: instruction, blank line, input |
| prompt-completion | prompt, completion or response; each a text or a list of turns | messages |
| question-answer | question, answer or answers or output; context? | messages: context, blank line, question |
| text-label | text (sentence, review, ...), label (intent, category, ...) | text, label |
| document-summary | document (article, text), summary (summaries, highlights, target; text or list) | text, targets |
| scored-pair | sentence1, sentence2, score | text, targets, label |
| query-positive | query (anchor, question), positive (passage, context); negatives? | text, targets, negatives |
| plain-text | text | text |

Every format may have a ``weight`` column, which multiplies the loss of the row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.data.files import kind
from luthier.data.pairs import NEGATIVES, QUERY_POSITIVE, SCORED_PAIR, query_positive, scored_pair
from luthier.data.turns import ROLES, SHAREGPT_ROLES, check_order, read_turns
from luthier.types import Example, Finding, Message, Source

Columns = Mapping[str, str]
"""Our name → the file's column, for files whose columns are named otherwise."""

TEXT = ("text", "sentence", "review", "utterance", "tweet", "comment")
LABEL = ("label", "labels", "intent", "category", "class", "score")


@dataclass(frozen=True)
class Format:
    """What a format needs and may have (our name → the columns that hold it, the first found wins)."""

    needs: Mapping[str, tuple[str, ...]]
    may: Mapping[str, tuple[str, ...]]
    build: Callable[[Fields], Example]

    def column(self, name: str, row: Mapping[str, Any], columns: Columns) -> str | None:
        """The column of ``row`` that holds ``name``, or None."""
        held_by = (columns[name],) if name in columns else self.needs.get(name) or self.may.get(name, (name,))
        return next((column for column in held_by if column in row), None)

    def fits(self, row: Mapping[str, Any], columns: Columns, *, filled: bool = False) -> bool:
        """Whether every column that is needed is there (and, if ``filled``, not null)."""
        found = [self.column(name, row, columns) for name in self.needs]
        return all(column is not None and not (filled and row[column] is None) for column in found)

    def knows(self, names: Mapping[str, Any]) -> bool:
        return all(name in self.needs or name in self.may or name == "weight" for name in names)


@dataclass
class Fields:
    """One row, asked for by our names; what is wrong with it gathers in ``findings``."""

    source: Source
    row: dict[str, Any]
    format: Format
    columns: Columns
    findings: list[Finding] = field(default_factory=list)

    def column(self, name: str) -> str:
        return self.format.column(name, self.row, self.columns) or name

    def get(self, name: str) -> Any:
        return self.row.get(self.column(name))

    def report(self, code: str, at: str, what: str, mend: str = "") -> None:
        self.findings.append(Finding(code, f"{self.source}:{at}", what, mend))

    def text(self, name: str, *, target: bool = False) -> str:
        """A text; a ``target`` may not be empty."""
        value = self.get(name)
        if not isinstance(value, str):
            self.report("data.type", self.column(name), f"must be text, this is {kind(value)}")
            return ""
        if target and not value.strip():
            self.report("data.empty-target", self.column(name), "is empty: there is nothing to learn")
        return value

    def optional(self, name: str) -> str:
        """A text that may be missing, null or empty."""
        return "" if self.get(name) is None else self.text(name)

    def turns(self, name: str, roles: Mapping[str, str] = ROLES) -> list[Message]:
        return read_turns(self.get(name), self.column(name), self.report, roles)

    def tools(self) -> list[dict[str, Any]] | None:
        """The tools that the assistant may call: a list of objects, or the same written as JSON."""
        value = self.get("tools")
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except ValueError as error:
                self.report("data.type", self.column("tools"), f"is not valid JSON ({error})")
                return None
        if value and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
            self.report("data.type", self.column("tools"), f"must be a list of objects, this is {kind(value)}")
        return value or None

    def weight(self) -> float:
        """The row's weight, 1 where there is no such column; a table's text is read as a number."""
        if self.format.column("weight", self.row, self.columns) is None:
            return 1.0
        value = self.get("weight")
        try:
            weight = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            self.report("data.weight", self.column("weight"), f"must be a finite number above 0, this is {value!r}")
        return weight


def to_example(
    source: Source, row: dict[str, Any], fmt: str, columns: Columns | None = None
) -> Example | list[Finding]:
    """The example that a row of a format (a key of ``FORMATS``) stands for, or everything that is wrong with it."""
    fields = Fields(source, row, FORMATS[fmt], columns or {})
    for name, held_by in fields.format.needs.items():
        if fields.format.column(name, row, fields.columns) is None:
            wanted = fields.columns.get(name) or " or ".join(held_by)
            fields.report("data.missing-field", name, f"has no {wanted}; its columns are {', '.join(row)}")
    if fields.findings:
        return fields.findings
    example = fields.format.build(fields)
    example.weight = fields.weight()
    return fields.findings or example


def _conversation(fields: Fields, turns: list[Message], at: str, tools: list[dict[str, Any]] | None = None) -> Example:
    if system := fields.optional("system"):
        turns = [{"role": "system", "content": system}, *turns]
    if not fields.findings:  # a turn that could not be read would be reported again as a gap in the order
        check_order(turns, at, fields.report)
    return Example(fields.source, messages=turns, tools=tools)


def _exchange(fields: Fields, user: list[str], answer: str) -> Example:
    asked = "\n\n".join(part for part in user if part.strip())
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return _conversation(fields, turns, "")


def _messages(fields: Fields) -> Example:
    return _conversation(fields, fields.turns("messages"), fields.column("messages"), fields.tools())


def _sharegpt(fields: Fields) -> Example:
    turns = fields.turns("conversations", SHAREGPT_ROLES)
    return _conversation(fields, turns, fields.column("conversations"), fields.tools())


def _alpaca(fields: Fields) -> Example:
    return _exchange(fields, [fields.text("instruction"), fields.optional("input")], fields.text("output", target=True))


def _prompt_completion(fields: Fields) -> Example:
    turns: list[Message] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(fields.get(name), list):
            turns += fields.turns(name)
        else:
            turns.append({"role": role, "content": fields.text(name, target=role == "assistant")})
    return _conversation(fields, turns, "prompt", fields.tools())


def _question_answer(fields: Fields) -> Example:
    column, answer = fields.column("answer"), fields.get("answer")
    if isinstance(answer, dict) and "text" in answer:  # SQuAD: {"text": [...], "answer_start": [...]}
        answer = answer["text"]
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    fields.row = {**fields.row, column: answer}
    return _exchange(fields, [fields.optional("context"), fields.text("question")], fields.text("answer", target=True))


def _text_label(fields: Fields) -> Example:
    text, label, column = fields.text("text", target=True), fields.get("label"), fields.column("label")
    names = isinstance(label, list) and all(isinstance(name, str) for name in label)
    if label is None or label == "":
        fields.report("data.empty-target", column, f"the label is {'null' if label is None else 'empty'}")
    elif isinstance(label, float) and not math.isfinite(label):
        fields.report("data.type", column, f"the label must be a finite number, this is {label}")
    elif not names and not isinstance(label, str | int | float):
        inside = " of other things" if isinstance(label, list) else ""
        fields.report(
            "data.type", column, f"a label is text, a number or a list of texts, this is {kind(label)}{inside}"
        )
    return Example(fields.source, text=text, label=label)


def _document_summary(fields: Fields) -> Example:
    """A list of summaries are references of one document; the first is what is learned."""
    text, found, column = fields.text("document", target=True), fields.get("summary"), fields.column("summary")
    summaries = found if isinstance(found, list) else [found]
    if not all(isinstance(summary, str) for summary in summaries):
        fields.report("data.type", column, f"a summary is text or a list of texts, this is {kind(found)}")
    elif not summaries or not all(summary.strip() for summary in summaries):
        fields.report("data.empty-target", column, "a summary is empty: there is nothing to learn")
    return Example(fields.source, text=text, targets=summaries)


def _plain_text(fields: Fields) -> Example:
    return Example(fields.source, text=fields.text("text", target=True))


TALK = {"system": ("system",), "tools": ("tools",)}

# In the order in which they are tried: a row with a text and a label is never taken for plain text.
FORMATS: dict[str, Format] = {
    "messages": Format({"messages": ("messages",)}, TALK, _messages),
    "sharegpt": Format({"conversations": ("conversations", "conversation")}, TALK, _sharegpt),
    "alpaca": Format(
        {"instruction": ("instruction",), "output": ("output", "response")},
        {"input": ("input",), "system": ("system",)},
        _alpaca,
    ),
    "prompt-completion": Format(
        {"prompt": ("prompt",), "completion": ("completion", "response")}, TALK, _prompt_completion
    ),
    "question-answer": Format(
        {"question": ("question",), "answer": ("answer", "answers", "output")},
        {"context": ("context",), "system": ("system",)},
        _question_answer,
    ),
    "scored-pair": Format(SCORED_PAIR, {}, scored_pair),
    "query-positive": Format(QUERY_POSITIVE, NEGATIVES, query_positive),
    "text-label": Format({"text": TEXT, "label": LABEL}, {}, _text_label),
    "document-summary": Format(
        {"document": ("document", "article", "text"), "summary": ("summary", "summaries", "highlights", "target")},
        {},
        _document_summary,
    ),
    "plain-text": Format({"text": ("text",)}, {}, _plain_text),
}
