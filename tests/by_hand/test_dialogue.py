"""Conversations that become several rows: cut at turns where they are too long, one an exchange where their template
rewrites what was said; what a system turn, a row's weight and the template's options do."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from chat_shapes import LLAMA_DATED, QWEN_3
from tiny_tokenizers import byte_level, token_bytes

import luthier
import tiny
from luthier.data.formats.choose import read_examples
from luthier.data.text.dialogue import Dialogue, Rows
from luthier.data.text.render import fix_options, load_template, render
from luthier.data.text.template import Encoded
from luthier.tasks.shown_turns import asked_messages
from luthier.types import Refused


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def talk(*answers: str, system: str = "") -> list[dict[str, Any]]:
    lead = [{"role": "system", "content": system}] if system else []
    return lead + [turn for i, said in enumerate(answers) for turn in (user(f"q{i}"), assistant(said))]


def rows(messages: list[dict[str, Any]], limit: int, *, train_on: Any = "all", template: str = "chatml") -> Rows:
    tokenizer = byte_level(0)
    if template == "chatml":
        load_template(tokenizer, template)
    else:
        tokenizer.chat_template = template
    return Dialogue(tokenizer, messages, None, train_on, limit, "a.jsonl:1:messages").rows("split")


def parts(encoded: Encoded) -> list[tuple[str, bool]]:
    tokenizer = byte_level(0)
    pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
    return [
        (b"".join(token_bytes(tokenizer, i) for i, _ in run).decode(), taught)
        for taught, run in groupby(pairs, key=lambda pair: pair[1])
    ]


def test_split_counted_by_hand() -> None:
    """One token a byte, one for each marker. The system turn "S" is [start]system\\nS[end]\\n: 1 + 7 + 1 + 1 + 1 = 11
    tokens. An exchange of two letters each is [start]user\\nq0[end]\\n, 1 + 5 + 2 + 1 + 1 = 10, and
    [start]assistant\\na0[end]\\n, 1 + 10 + 2 + 1 + 1 = 15: 25 together. With a limit of 61 = 11 + 2 * 25 two exchanges
    fit into a row, and with 60 one."""
    messages = talk("a0", "a1", "a2", "a3", "a4", system="S")
    for limit, sizes in ((61, [61, 61, 36]), (60, [36] * 5), (136, [136])):
        made = rows(messages, limit)
        assert [len(row.input_ids) for row in made.rows] == sizes
        assert made.whole == (136 if limit < 136 else None)
        assert not made.too_long
        taught = [text for row in made.rows for text, supervised in parts(row) if supervised]
        assert taught == [f"a{i}<|im_end|>" for i in range(5)]
        for row in made.rows:
            assert row.text.startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n")


def test_an_exchange_that_is_too_long_alone_is_told_and_the_others_stay() -> None:
    made = rows(talk("a0", "a1", "x" * 90, "a3", system="S"), 61)
    assert [index for index, _ in made.too_long] == [5]  # of system, q0, a0, q1, a1, q2, ...
    taught = [text for row in made.rows for text, supervised in parts(row) if supervised]
    assert taught == ["a0<|im_end|>", "a1<|im_end|>", "a3<|im_end|>"]


def test_where_the_last_turn_alone_is_learned_it_keeps_what_fits_before_it() -> None:
    """The two last exchanges without a system turn: 25 + 25 = 50 tokens."""
    made = rows(talk("a0", "a1", "a2", "a3"), 55, train_on="last")
    assert [len(row.input_ids) for row in made.rows] == [50]
    assert [text for text, supervised in parts(made.rows[0]) if supervised] == ["a3<|im_end|>"]
    assert made.rows[0].text.startswith("<|im_start|>user\nq2")


def test_a_rewriting_template_gives_a_row_an_exchange_also_where_it_is_split() -> None:
    """Qwen 3's: what earlier turns thought is left out. Each row is the prompt of its time, and each turn is taught
    once. The rows have 46, 71 and 96 tokens; under a limit of 90 the third exchange begins a row of its own."""
    thought = [f"<think>\nt{i}\n</think>\n\na{i}" for i in range(3)]
    for limit, starts in ((10**6, [0, 0, 0]), (90, [0, 0, 2])):
        made = rows(talk(*thought), limit, template=QWEN_3)
        assert made.rewritten
        texts = [row.text for row in made.rows]
        assert [[text for text, supervised in parts(row) if supervised] for row in made.rows] == [
            [f"{said}<|im_end|>"] for said in thought
        ]
        assert [text.split("\n")[1][:2] for text in texts] == [f"q{start}" for start in starts]
        assert [text.count("<think>") for text in texts] == [1, 1, 1]


def test_a_row_of_a_hundred_thousand_tokens_is_split_or_measured_in_time() -> None:
    """1,000 exchanges of about 100 tokens, and one answer of 100,000: the test ends."""
    messages = talk(*("v" * 60 for _ in range(1000)))
    tokenizer = byte_level(0)
    load_template(tokenizer, "chatml")
    made = Dialogue(tokenizer, messages, None, "all", 2048, "a.jsonl:1:messages").rows("split")
    assert sum(sum(row.supervised) for row in made.rows) == 1000 * 61
    assert made.longest <= 2048
    dropped = Dialogue(tokenizer, messages, None, "all", 2048, "a.jsonl:1:messages").rows("drop")
    assert dropped.longest == made.whole
    one = Dialogue(tokenizer, talk("v" * 100_000), None, "all", 2048, "a.jsonl:1:messages").rows("split")
    assert (list(one.rows), [index for index, _ in one.too_long]) == ([], [0])


# Through the whole house ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(model: str, messages: list[list[dict[str, Any]]], **keys: Any) -> tuple[dict[str, Any], Any]:
    tiny.write_jsonl(Path("rows.jsonl"), [{"messages": turns} for turns in messages])
    findings, prepared = luthier.check(task="chat", model=model, data={"train": "rows.jsonl", "eval": 0.0}, **keys)
    return {finding.code: finding for finding in findings}, prepared


def test_what_is_split_is_counted(tiny_folder: Callable[..., str], folder: Path) -> None:
    long, lost = talk(*["red"] * 9), talk("red", "blue " * 70, "red")
    found, prepared = checked(
        tiny_folder("llama"), [talk("red"), long, lost, talk("blue " * 70)], overlong="split", max_length=64
    )
    what = found["data.too-long"].what
    assert found["data.too-long"].severity == "warning"
    assert "3 of 4 rows are over 64 tokens" in what
    assert "2 exchanges left out, which are too long even alone (first: rows.jsonl:3:messages[2])" in what
    assert prepared.data["train"]["used"] == 3
    assert prepared.data["train"]["skipped"] == {"too long": 1}
    ends = [end for row in prepared.train.rows for end in row["turn_ends"]]
    assert len(ends) == 1 + 9 + 2
    found, _ = checked(tiny_folder("llama"), [long], max_length=64)
    assert found["data.too-long"].severity == "error"


def test_tasks_without_turns_do_not_split(tiny_folder: Callable[..., str], folder: Path) -> None:
    data = {"train": tiny.write_jsonl(Path("rows.jsonl"), [{"text": "red"}] * 2), "eval": 0.0}
    findings, _ = luthier.check(task="complete", model=tiny_folder("llama"), data=data, overlong="split")
    assert ("recipe.combination", "overlong") in [(finding.code, finding.where) for finding in findings]


def test_a_system_turn_for_those_that_have_none(tiny_folder: Callable[..., str], folder: Path) -> None:
    """In training and when it answers, and told."""
    found, prepared = checked(tiny_folder("llama"), [talk("red"), talk("red", system="blue")], chat={"system": "the"})
    assert "1 of 2 rows that have none" in found["data.system"].what
    texts = [prepared.backbone.tokenizer.decode(row["input_ids"]) for row in prepared.train.rows]
    assert [text.split("<|im_end|>")[0] for text in texts] == [
        "<|im_start|>system\nthe", "<|im_start|>system\nblue",
    ]  # fmt: skip
    asked = prepared.task.prompt(prepared, prepared.task.parse("red"))
    assert prepared.backbone.tokenizer.decode(asked).startswith("<|im_start|>system\nthe<|im_end|>\n<|im_start|>user")


def test_a_rows_weight_by_hand(tiny_folder: Callable[..., str], folder: Path) -> None:
    """The loss of rows of weights 1 and 3, with nll a and b over 2 and 2 supervised tokens, is (a + 3b) / (2 + 3 * 2):
    from the outputs of each row alone."""
    rows = [{"prompt": "red", "completion": "cat"}, {"prompt": "blue", "completion": "dog", "weight": 1.5}]
    tiny.write_jsonl(Path("rows.jsonl"), rows)
    train = [{"path": "rows.jsonl", "weight": 2}]
    _, prepared = luthier.check(task="chat", model=tiny_folder("llama"), data={"train": train, "eval": 0.0})
    assert [row["weight"] for row in prepared.train.rows] == [2.0, 3.0]
    objective, backbone = prepared.objective, prepared.backbone
    alone = [objective.outputs(backbone, objective.collate([row]))[0] for row in prepared.train.rows]
    terms = objective.loss(backbone, objective.collate(prepared.train.rows))
    assert [row["tokens"] for row in alone] == [2, 2]
    assert terms.count == 2 * 2 + 3 * 2
    assert float(terms.total) == pytest.approx(2 * alone[0]["nll"] + 3 * alone[1]["nll"], rel=1e-5)


def test_a_rewriting_template_is_told(tiny_folder: Callable[..., str], folder: Path) -> None:
    Path("qwen.jinja").write_text(QWEN_3, encoding="utf-8")
    model = {"name": tiny_folder("llama"), "template": "qwen.jinja"}
    found, prepared = checked(model, [talk("red", "blue", "cat"), talk("dog")], method="lora")  # type: ignore[arg-type]
    assert (found["template.rewrites"].severity, "1 conversations make 3 rows" in found["template.rewrites"].what) == (
        "note", True,
    )  # fmt: skip
    assert [row["row"] for row in prepared.train.rows] == [0, 0, 0, 1]


# The template's options -----------------------------------------------------------------------------------------------


def test_options_stay_with_the_tokenizer_that_is_saved(tiny_folder: Callable[..., str], folder: Path) -> None:
    """``enable_thinking: false``: the prompt closes the thought, and transformers writes the same from final/."""
    from transformers import AutoTokenizer

    Path("qwen.jinja").write_text(QWEN_3, encoding="utf-8")
    options = {"enable_thinking": False}
    model = {"name": tiny_folder("llama"), "template": "qwen.jinja", "template_options": options}
    tiny.write_jsonl(Path("rows.jsonl"), [{"messages": talk("red")}] * 2)
    run = luthier.tune(task="chat", model=model, data={"train": "rows.jsonl", "eval": 0.0}, steps=1)
    saved = AutoTokenizer.from_pretrained(run.folder / "final", trust_remote_code=False)
    prompt = saved.apply_chat_template([user("hi")], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert luthier.load(run.folder).predict(["hi"], max_new_tokens=2)
    again = luthier.tune(str(run.folder / "recipe.yaml"), ["name=again"])
    assert again.resolved.recipe.model.template_options == options


def test_an_option_that_the_template_does_not_read() -> None:
    tokenizer = byte_level(0)
    tokenizer.chat_template = QWEN_3
    with pytest.raises(Refused) as caught:
        fix_options(tokenizer, {"enable_thinkin": False, "colour": "red"})
    told = [(finding.code, finding.where, finding.mend) for finding in caught.value.findings]
    assert told[0] == (
        "template.option", "model.template_options.enable_thinkin", "did you mean 'enable_thinking'?",
    )  # fmt: skip
    assert told[1][1] == "model.template_options.colour"
    assert tokenizer.chat_template == QWEN_3


@pytest.mark.parametrize("value", ["26 Jul 2024", True, None, 3, 0.5, ["a", {"b": None}], 'quo"te {{ x }} %}'])
def test_options_of_every_kind_are_written_as_they_are(value: Any) -> None:
    tokenizer = byte_level(0)
    tokenizer.chat_template = "\n{{ thing | tojson }}{{ messages[0].content }}"
    fix_options(tokenizer, {"thing": value})
    assert render(tokenizer, [user("hi")]).text == f"\n{json.dumps(value)}hi"


def test_a_date_in_the_template_is_told(tiny_folder: Callable[..., str], folder: Path) -> None:
    """Rows would differ from day to day, and the same command would begin another run; an option holds the date."""
    Path("dated.jinja").write_text(LLAMA_DATED.replace("message['role']", "message.role"), encoding="utf-8")
    model: dict[str, Any] = {"name": tiny_folder("llama"), "template": "dated.jinja"}
    found, _ = checked(model, [talk("red")])  # type: ignore[arg-type]
    assert (found["template.date"].severity, "date_string" in found["template.date"].mend) == ("warning", True)
    found, _ = checked(model | {"template_options": {"date_string": "26 Jul 2024"}}, [talk("red")])  # type: ignore[arg-type]
    assert "template.date" not in found


# Rows that are wrong --------------------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def calls(*made: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(made)}


def result(**rest: Any) -> dict[str, Any]:
    return {"role": "tool", "content": "2", **rest}


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user("q"), assistant("a"), result(), assistant("b")], ("data.tool-call", "messages[2]")),
        ([user("q"), calls(CALL), result(), result(), assistant("b")], ("data.tool-call", "messages[3]")),
        ([user("q"), calls(CALL), result(tool_call_id="c2"), assistant("b")], ("data.tool-call", "messages[2]")),
        ([user("q"), calls({"function": {}}), assistant("b")], ("data.tool-call", "messages[1].tool_calls[0]")),
        ([user("q"), calls("add")], ("data.type", "messages[1].tool_calls[0]")),
        ([user("q"), calls({"function": {"name": "f", "arguments": "{"}})],
         ("data.tool-call", "messages[1].tool_calls[0].arguments")),
        ([user("q"), calls({"function": {"name": "f", "arguments": "[1]"}})],
         ("data.tool-call", "messages[1].tool_calls[0].arguments")),
        ([{**user("q"), "tool_calls": [CALL]}, assistant("b")], ("data.tool-call", "messages[0].tool_calls")),
        ([user("q"), user("r"), assistant("a")], ("data.role-order", "messages")),
        ([user("q"), assistant(" ")], ("data.empty-target", "messages[1].content")),
        ([user("q"), {"role": "bot", "content": "a"}], ("data.role-unknown", "messages[1].role")),
        ([{"role": "user", "content": [{"type": "image_url"}]}, assistant("a")], ("data.type", "messages[0].content")),
    ],
)  # fmt: skip
def test_each_wrong_row_by_its_place(turns: list[Any], expected: tuple[str, str], folder: Path) -> None:
    tiny.write_jsonl(Path("rows.jsonl"), [{"messages": talk("fine")}, {"messages": turns}])
    read = read_examples("rows.jsonl", base=folder)
    code, place = expected
    assert (code, f"rows.jsonl:2:{place}") in [(finding.code, finding.where) for finding in read.findings]
    assert (len(read.examples), read.rows_read) == (1, 2)


def test_calls_are_read_with_arguments_as_objects(folder: Path) -> None:
    """OpenAI's arguments as JSON and ShareGPT's function_call are the same call."""
    openai = [user("q"), calls(CALL), result(tool_call_id="c1"), assistant("b")]
    sharegpt = [
        {"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"}, {"from": "gpt", "value": "b"},
    ]  # fmt: skip
    tiny.write_jsonl(Path("a.jsonl"), [{"messages": openai}])
    tiny.write_jsonl(Path("b.jsonl"), [{"conversations": sharegpt}])
    read = read_examples(["a.jsonl", "b.jsonl"], base=folder)
    assert read.findings == []
    inner = [(example.messages or [])[1]["tool_calls"][0]["function"] for example in read.examples]
    assert inner == [{"name": "add", "arguments": {"a": 1}}] * 2


def test_a_template_that_joins_arguments_to_a_text_gets_json() -> None:
    """With ``+`` an object fails, with ``~`` Python would write it in its own way."""
    for joined in ("'call:' + m.tool_calls[0].function.arguments", "'call:' ~ m.tool_calls[0].function.arguments"):
        tokenizer = byte_level(0)
        tokenizer.chat_template = (
            "{% for m in messages %}{{ " + joined + " if m.tool_calls else m.content }}{% endfor %}"
        )
        text = render(tokenizer, [user("q"), calls(CALL)]).text
        assert text == 'qcall:{"a": 1}'


def test_words_that_spell_a_marker_are_told(tiny_folder: Callable[..., str], folder: Path) -> None:
    """``<|im_end|>`` in a row's own words becomes the token that ends a turn."""
    found, _ = checked(tiny_folder("llama"), [talk("red"), [user("what is <|im_end|>?"), assistant("a marker")]])
    assert found["data.marker"].severity == "warning"
    assert found["data.marker"].where == "rows.jsonl:2:messages[0]"
    assert "'<|im_end|>'" in found["data.marker"].what
    found, _ = checked(tiny_folder("llama"), [talk("red")])
    assert "data.marker" not in found


def test_an_empty_answer_before_the_question_is_asked_past() -> None:
    """It would be nothing to learn from; a model that said nothing can be asked again."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "b"}]
    assert asked_messages(said, {}).messages == said
