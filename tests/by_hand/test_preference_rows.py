"""Every usual form of a preference, and what each becomes; what can't be learned from is told at its place."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.data.files.transcripts import apart, read_transcript
from luthier.data.formats.choose import recognise, to_example
from luthier.data.split import duplicates, row_key, split
from luthier.tasks.answers import pair_rows
from luthier.types import Example, Finding, Source

SOURCE = Source("rows.jsonl", 1)
PREFERS = ("preference", "judged-pair", "rated-answers", "thumbs")
ASK, YES, NO = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "y"), ("assistant", "n"))
)
SYSTEM = {"role": "system", "content": "s"}
PAIR = ([ASK], [YES], [NO])


def convert(row: dict[str, Any]) -> Any:
    fmt = recognise([(SOURCE, row)], prefer=PREFERS)
    assert isinstance(fmt, str), fmt
    return to_example(SOURCE, row, fmt)


def human(*said: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[at % 2]}: {text}" for at, text in enumerate(said))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "y", "rejected": "n"},
        {"question": "q", "chosen": "y", "rejected": "n", "id": 3},
        {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
        {"prompt": [ASK], "chosen": YES, "rejected": "n"},
        {"prompt": "q", "chosen": [ASK, YES], "rejected": [ASK, NO]},  # the prompt once more within
        {"chosen": [ASK, YES], "rejected": [ASK, NO]},
        {"messages": [ASK, YES], "rejected_response": "n"},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "y"},
         "rejected": {"from": "gpt", "value": "n"}},
        {"chosen": human("q", "y"), "rejected": human("q", "n")},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "y", "rejected": "n"},
        {"prompt": "q", "output_1": "n", "output_2": "y", "better": 2},
        {"prompt": "q", "output_1": "y", "output_2": "n", "better": "output_1"},
        {"prompt": "q", "response_0": "n", "response_1": "y", "better_response_id": 1},
        {"prompt": "q", "response_a": "y", "response_b": "n", "winner": "A"},
        {"conversation_a": [ASK, NO], "conversation_b": [ASK, YES], "winner": "model_b"},
        {"prompt": "q", "answer_1": "y", "answer_2": "n", "preference": 1.0},
    ],
)  # fmt: skip
def test_a_pair(row: dict[str, Any]) -> None:
    example = convert(row)
    assert (example.messages, example.chosen, example.rejected) == PAIR
    assert example.margin is None


def test_margins_are_differences_of_scores() -> None:
    base = {"prompt": "q", "chosen": "y", "rejected": "n"}
    assert convert(base | {"score_chosen": 4.5, "score_rejected": 3}).margin == 1.5
    assert convert(base | {"margin": "0.25"}).margin == 0.25


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "answers": ["m", "y", "n", "y2"], "ratings": [3, 5, 1, 5]},
        {"prompt": "q", "completions": [{"response": text, "overall_score": score} for text, score in
                                        (("m", 3), ("y", 5), ("n", 1), ("y2", 5))]},
    ],
)  # fmt: skip
def test_of_several_rated_answers_the_best_and_the_worst(row: dict[str, Any]) -> None:
    """Of two best ones the first; 5 - 1 = 4; the one between is worse by 2, the other best one makes no pair."""
    example = convert(row)
    assert (example.messages, example.chosen, example.rejected) == PAIR
    assert example.worse == [([{"role": "assistant", "content": "m"}], 2.0)]
    assert (example.margin, example.passed_over) == (4.0, 1)


def test_several_rejected_answers() -> None:
    """Each makes a pair with the chosen one, and the row weighs as before: 3 over 3 pairs, of [prompt chosen] each."""
    example = convert({"prompt": "q", "chosen": "y", "rejected": ["n", "no", "never"], "weight": 3})
    assert (example.messages, example.chosen, example.rejected) == PAIR
    assert [turns[0]["content"] for turns, _ in example.worse] == ["no", "never"]

    def encode(backbone: Any, of: Example, turns: Any, side: str, limit: int | None) -> Any:
        ids = [len(of.messages or []), *map(ord, turns[0]["content"])]
        return {"input_ids": ids, "supervised": [False] + [True] * (len(ids) - 1), "turn_ends": [len(ids) - 1],
                "full_length": len(ids)}  # fmt: skip

    rows = pair_rows(encode, None, example, None)  # type: ignore[arg-type]
    assert [row["weight"] for row in rows] == [1, 1, 1]
    assert [row["lengths"] for row in rows] == [[2, 2], [2, 3], [2, 6]]
    assert [row["turn_ends"] for row in rows] == [[1, 3], [1, 4], [1, 7]]
    assert rows[2]["input_ids"] == [1, ord("y"), 1, *map(ord, "never")]


@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "y"}, {"messages": [ASK, YES]}])
@pytest.mark.parametrize(("label", "liked"), [(True, True), (0, False), ("false", False), ("up", True), (1.0, True)])
def test_a_thumb(row: dict[str, Any], label: Any, liked: bool) -> None:
    example = convert(row | {"label": label})
    assert example.messages == [ASK]
    assert (example.chosen, example.rejected) == (([YES], None) if liked else (None, [YES]))


def test_a_text_with_a_label_is_no_thumb() -> None:
    """Rows to classify whose text is called `prompt`: the column is told, as before."""
    (finding,) = recognise([(SOURCE, {"prompt": "q", "label": "a"})], prefer=("text-label",))
    assert isinstance(finding, Finding)
    assert finding.code == "data.unknown-format"


def test_a_dialogue_is_cut_where_the_answers_part() -> None:
    """Turns in common are the prompt; of one that goes on the last answer is what differs; a speaker speaks once."""
    both = [human("a", "b", "c", text) for text in ("d", "e")]
    example = convert({"chosen": both[0], "rejected": both[1]})
    assert [turn["content"] for turn in example.messages] == ["a", "b", "c"]
    assert (example.chosen[0]["content"], example.rejected[0]["content"]) == ("d", "e")
    longer = convert({"chosen": human("a", "b", "c", "d"), "rejected": human("a", "x")})
    assert [turn["content"] for turn in longer.messages] == ["a"]
    assert [turn["content"] for turn in longer.chosen] == ["b", "c", "d"]
    said = read_transcript("\n\nHuman: a\n\nAssistant:\n\nAssistant: b\n\nstill b\n\nHuman: c")
    assert [(turn["role"], turn["content"]) for turn in said] == [
        ("user", "a"), ("assistant", "b\n\nstill b"), ("user", "c"),
    ]  # fmt: skip
    assert apart([ASK, YES], [ASK, YES, ASK, NO]) == 1


def test_a_system_turn_comes_first() -> None:
    example = convert({"prompt": "q", "chosen": "y", "rejected": "n", "system": "s"})
    assert example.messages == [SYSTEM, ASK]


GOOD = {"prompt": "q", "chosen": "y", "rejected": "n"}
JUDGED = {"prompt": "q", "output_1": "y", "output_2": "n", "better": 1}
RATED = {"prompt": "q", "answers": ["y", "n"], "ratings": [2, 1]}
THUMB = {"prompt": "q", "completion": "y", "label": True}


@pytest.mark.parametrize(
    ("row", "code", "at"),
    [
        (GOOD | {"rejected": " y"}, "data.same-answers", "rejected"),
        (GOOD | {"rejected": ""}, "data.empty-target", "rejected"),
        (GOOD | {"rejected": ["n", " "]}, "data.empty-target", "rejected[1]"),
        (GOOD | {"rejected": ["n", "y"]}, "data.same-answers", "rejected[1]"),
        (GOOD | {"chosen": None}, "data.empty-target", "chosen"),
        (GOOD | {"chosen": 3}, "data.type", "chosen"),
        (GOOD | {"prompt": "  "}, "data.empty-text", "prompt"),
        ({"chosen": "y", "rejected": "n"}, "data.no-prompt", "chosen"),
        ({"chosen": human("q", "y"), "rejected": human("p", "n")}, "data.prompt-differs", "rejected"),
        (GOOD | {"score_chosen": 1, "score_rejected": 1}, "data.tie", "score_chosen"),
        (GOOD | {"score_chosen": 1, "score_rejected": 2}, "data.score-order", "score_chosen"),
        (GOOD | {"margin": "much"}, "data.type", "margin"),
        ({"chosen": human("q", " "), "rejected": human("q", "n")}, "data.empty-target", "chosen"),
        (JUDGED | {"better": "tie"}, "data.tie", "better"),
        (JUDGED | {"better": None}, "data.tie", "better"),
        (JUDGED | {"better": 0}, "data.tie", "better"),
        (JUDGED | {"better": 3}, "data.judgement", "better"),
        (JUDGED | {"output_2": "y"}, "data.same-answers", "output_2"),
        (RATED | {"ratings": [2, 2]}, "data.tie", "answers"),
        (RATED | {"ratings": [2]}, "data.type", "ratings"),
        (RATED | {"answers": ["y", " "]}, "data.empty-target", "answers[1]"),
        (RATED | {"answers": ["y"]}, "data.type", "answers"),
        (THUMB | {"label": "perhaps"}, "data.thumb", "label"),
        (THUMB | {"completion": " "}, "data.empty-target", "completion"),
    ],
)
def test_what_cannot_be_learned_from(row: dict[str, Any], code: str, at: str) -> None:
    found = convert(row)
    assert isinstance(found, list), found
    assert [(one.code, one.where.removeprefix("rows.jsonl:1:")) for one in found] == [(code, at)]


def test_pairs_of_one_prompt_stay_together_and_are_no_repeats() -> None:
    """Five prompts of three pairs each: whole prompts are held out. The same two answers, swapped, contradict."""

    def pair(prompt: str, chosen: str, rejected: str, line: int) -> Example:
        made = to_example(
            Source("rows.jsonl", line), {"prompt": prompt, "chosen": chosen, "rejected": rejected}, "preference"
        )
        assert isinstance(made, Example)
        return made

    rows = [pair(f"p{at % 5}", f"y{at}", "n", at) for at in range(15)]
    train, held_out = split(rows, 0.4, seed=0)
    prompts = [{row.messages[0]["content"] for row in side if row.messages} for side in (train, held_out)]
    assert prompts[0].isdisjoint(prompts[1])
    assert len(train) % 3 == 0
    assert duplicates(rows, []) == []
    swapped, again = pair("p0", "n", "y0", 20), pair("p0", "y0", "n", 21)
    assert row_key(swapped) == row_key(rows[0])
    assert [one.code for one in duplicates([rows[0], swapped], [])] == ["data.conflict"]
    assert [one.code for one in duplicates([rows[0], again], [])] == ["data.duplicates"]
    assert [one.code for one in duplicates(rows, [again])] == ["data.leak"]
    assert duplicates(rows, [pair("p0", "another", "n", 22)]) == []
