"""What the tasks on judged answers share: a row as the sequences of its answers, by the template that `chat` renders.
Both have the pictures of what is asked in their places.

Supervised is the answer with its terminator: of turns that follow the prompt the assistant's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from luthier.data.formats.choose import recognise, to_example
from luthier.data.lengths import cut_text
from luthier.data.text.render import render
from luthier.data.text.template import encode_chat
from luthier.models.backbone import Backbone
from luthier.tasks.pictures import in_places, read_among_words
from luthier.tasks.shown_turns import no_room, placed
from luthier.types import INLINE, Example, Features, Finding, Message, Refused

SIDES = ("chosen", "rejected")


def sides_of(example: Example) -> list[tuple[str, list[Message]]]:
    """(name, turns) of the answers that a row has."""
    return [(name, turns) for name, turns in zip(SIDES, (example.chosen, example.rejected), strict=True) if turns]


def encode_answer(
    backbone: Backbone, example: Example, answer: Sequence[Message], side: str, limit: int | None
) -> Features:
    """Prompt and answer as one sequence; cut to ``limit`` tokens, where that is given. Raises Refused."""
    prompt = example.messages or []
    learned = [len(prompt) + at for at, turn in enumerate(answer) if turn["role"] == "assistant"]
    where = f"{example.source}:{side}"
    made = encode_chat(
        backbone.tokenizer, [*prompt, *answer], tools=example.tools, train_on=learned, where=where
    )  # fmt: skip
    row: Features = {
        "input_ids": made.input_ids, "supervised": made.supervised, "turn_ends": made.turn_ends,
        "full_length": len(made.input_ids),
    }  # fmt: skip
    if example.images:
        row = placed(backbone, example, row, limit, where)
    ids = row["input_ids"][:limit]
    ends = row["turn_ends"] if len(ids) == row["full_length"] else []
    return row | {"input_ids": ids, "supervised": row["supervised"][:limit], "turn_ends": ends}


def encode_whole(
    backbone: Backbone, example: Example, answer: Sequence[Message], side: str, limit: int | None
) -> Features:
    """The same as a text that the tokenizer opens and closes as its model knows it; all of it is read."""
    where = f"{example.source}:{side}"
    text = render(backbone.tokenizer, [*(example.messages or []), *answer], tools=example.tools, where=where).text
    if not example.images:
        ids, full = cut_text(backbone.tokenizer, text, limit)
        return {"input_ids": ids, "supervised": [True] * len(ids), "turn_ends": [], "full_length": full}
    reader, images = read_among_words(backbone, example)
    ids, full = cut_text(backbone.tokenizer, text, None if limit is None else limit - reader.room_taken(images))
    if len(ids) < full and ids.count(reader.mark_id) < len(images):
        raise Refused(no_room(reader, limit, where))
    row = in_places(reader, {"input_ids": ids, "full_length": full}, images, where)
    return row | {"supervised": [token != reader.image_id for token in row["input_ids"]], "turn_ends": []}


def pair_rows(
    encode_one: Callable[..., Features], backbone: Backbone, example: Example, limit: int | None
) -> list[Features]:
    """A row of the answers that an example has; where its chosen one is better than several, a row for each.

    They weigh as much as one together.
    """
    parts = [encode_one(backbone, example, turns, side, limit) for side, turns in sides_of(example)]
    rows = [one_row(parts, example) | {"margin": example.margin}]
    for turns, margin in example.worse:
        other = encode_one(backbone, example, turns, SIDES[1], limit)
        rows.append(one_row([parts[0], other], example) | {"margin": margin})
    return [row | {"weight": example.weight / len(rows)} for row in rows]


def one_row(parts: Sequence[Features], example: Example) -> Features:
    """Sequences end to end, as ``objectives/likelihood.py`` reads them; the longest says whether a row is too long."""
    lengths = [len(part["input_ids"]) for part in parts]
    starts = [sum(lengths[:at]) for at in range(len(parts))]
    ends = [start + end for start, part in zip(starts, parts, strict=True) for end in part["turn_ends"]]
    return {
        "input_ids": [token for part in parts for token in part["input_ids"]],
        "supervised": [one for part in parts for one in part["supervised"]], "lengths": lengths, "turn_ends": ends,
        "weight": example.weight, "full_length": max(part["full_length"] for part in parts),
        **({"pictures": parts[0]["pictures"], "cost": sum(part["cost"] for part in parts)} if example.images else {}),
    }  # fmt: skip


def told_rows(train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
    """Notes on what the rows hold: answers that lie between the best and the worst are counted."""
    examples = [*train, *evaluation]
    findings = []
    if over := sum(example.passed_over for example in examples):
        what = f"{over} answers are rated as their row's best one is, and make no pair with it"
        findings.append(Finding("data.passed-over", "data", what, severity="note"))
    counts = Counter(len(sides_of(example)) for example in examples)
    if len(counts) > 1:
        what = f"{counts[2]} rows have two answers and {counts[1]} one with a thumb"
        mend = "train on them one at a time, or make pairs of all"
        findings.append(Finding("data.mixed-formats", "data", what, mend))
    return findings


def shown_prompt(messages: Sequence[Message]) -> str:
    return "\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in messages)


def shown_turns(turns: Sequence[Message] | None) -> str:
    """An answer as a reader should see it: its text, with the speakers where it has several turns."""
    turns = list(turns or [])
    return shown_prompt(turns) if len(turns) > 1 else str(turns[0].get("content") or "") if turns else ""


def parsed_row(given: dict[str, Any], formats: Sequence[str]) -> Example | None:
    """An input that is a row of one of these formats; None where it is none, or not a sound one."""
    rows = [(INLINE, given)]
    fmt = recognise(rows, prefer=formats)
    found = to_example(INLINE, given, fmt) if isinstance(fmt, str) and fmt in formats else None
    return found if isinstance(found, Example) else None
