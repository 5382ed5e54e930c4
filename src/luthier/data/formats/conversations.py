"""Rows that become conversations: turns with roles, or an instruction and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.data.files.reading import kind
from luthier.data.formats.fields import Fields
from luthier.data.text.turns import MARK, MARKS, ROLES, SHAREGPT_ROLES, SOUND_MARK, check_order, mark_first, marks
from luthier.types import Example, Message

PLAIN_SOUND = "<audio>"
"""As LLaMA-Factory and ms-swift mark a sound; in rows without sounds it is what it says."""


def conversation(fields: Fields, turns: list[Message], at: str, tools: list[dict[str, Any]] | None = None) -> Example:
    if system := fields.optional("system"):
        turns = [{"role": "system", "content": system}, *turns]
    if not fields.findings:  # a turn that could not be read would be reported again as a gap in the order
        check_order(turns, at, fields.report)
    return Example(fields.source, messages=turns, tools=tools)


def exchange(fields: Fields, user: list[str], answer: str) -> Example:
    asked = "\n\n".join(part for part in user if part.strip())
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return conversation(fields, turns, "")


def messages(fields: Fields) -> Example:
    return _shown(fields, "messages", ROLES)


def sharegpt(fields: Fields) -> Example:
    return _shown(fields, "conversations", SHAREGPT_ROLES)


def _shown(fields: Fields, name: str, roles: Mapping[str, str]) -> Example:
    """Turns in which pictures and sounds may stand: as parts that name them, or, in the order of the parts or of the
    marks in the texts, from a column of their own; without a mark all of these stand before the first question.
    """
    parts: list[tuple[str, str, Any]] = []
    turns, column = fields.turns(name, roles, parts), fields.column(name)
    example = conversation(fields, turns, column, fields.tools())
    if fields.get("sounds") is not None:
        for turn in turns:
            turn["content"] = turn["content"] and str(turn["content"]).replace(PLAIN_SOUND, SOUND_MARK)
    for mark in MARKS:
        found = shown_by(fields, mark, [(at, named) for of, at, named in parts if of == mark], column)
        if found and not fields.findings:
            check_marks(fields, turns, mark, len(found), column)
        example.images, example.sounds = (
            (found or None, example.sounds) if mark == MARK else (example.images, found or None)
        )
    return example


def shown_by(fields: Fields, mark: str, parts: list[tuple[str, Any]], column: str) -> list[Any]:
    """The pictures, or the sounds, of a conversation: those that its parts name, or those of the row's own column."""
    read, kept = (fields.as_pictures, "images") if mark == MARK else (fields.as_sounds, "sounds")
    noun, unnamed = "picture" if mark == MARK else "sound", [at for at, one in parts if one is None]
    found: list[Any] = []
    if len(unnamed) < len(parts):
        found = read([one for _, one in parts if one is not None], column)
    elif fields.get(kept) is not None:
        several = fields.get(kept)
        samples = mark == SOUND_MARK and isinstance(several, list) and several and isinstance(several[0], int | float)
        found, unnamed = (
            read(several if isinstance(several, list) and not samples else [several], fields.column(kept)),
            [],
        )
        if not found and not fields.findings:
            fields.report("data.type", fields.column(kept), f"names no {noun}")
    for at in unnamed:
        fields.report("data.type", at, f"has a {noun} that is not named", "name it in its part, as the others are")
    return found


def check_marks(fields: Fields, turns: list[Message], mark: str, count: int, column: str) -> None:
    """The turns have a mark for each; without any, all stand before the first question."""
    found = marks(turns, mark)
    if found == 0:
        mark_first(turns, count, mark)
    elif found != count:
        what = f"has {found} marks {mark}, and the row {count} {'pictures' if mark == MARK else 'sounds'}"
        fields.report("data.picture-marks", column, what, "write one mark for each, or none")


def alpaca(fields: Fields) -> Example:
    return exchange(fields, [fields.text("instruction"), fields.optional("input")], fields.text("output", target=True))


def self_instruct(fields: Fields) -> Example:
    """The seed tasks of Self-Instruct (arXiv 2212.10560): an instruction, and its input and output in a list of one."""
    found, column = fields.get("instances"), fields.column("instances")
    if not (isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict)):
        there = f"a list of {len(found)}" if isinstance(found, list) else kind(found)
        what = f"must be a list of one object, this is {there}"
        fields.report("data.type", column, what, "write a row for each instance")
        return Example(fields.source)
    given, answer = found[0].get("input") or "", found[0].get("output")
    if not isinstance(given, str) or not isinstance(answer, str):
        fields.report("data.type", f"{column}[0]", "its input and output must be text")
    elif not answer.strip():
        fields.report("data.empty-target", f"{column}[0].output", "is empty: there is nothing to learn")
    return exchange(fields, [fields.text("instruction"), given], answer if isinstance(answer, str) else "")


def prompt_completion(fields: Fields) -> Example:
    turns: list[Message] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(fields.get(name), list):
            turns += fields.turns(name)
        else:
            turns.append({"role": role, "content": fields.text(name, target=role == "assistant")})
    return conversation(fields, turns, "prompt", fields.tools())


def question_answer(fields: Fields) -> Example:
    column, answer = fields.column("answer"), fields.get("answer")
    if isinstance(answer, dict) and "text" in answer:  # SQuAD: {"text": [...], "answer_start": [...]}
        answer = answer["text"]
    if isinstance(answer, list):
        answer = answer[0] if answer else ""
    fields.row = {**fields.row, column: answer}
    return exchange(fields, [fields.optional("context"), fields.text("question")], fields.text("answer", target=True))
