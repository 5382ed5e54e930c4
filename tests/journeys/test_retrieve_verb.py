"""Documents found and answered from, with the real command: tune, evaluate, index, search, and chat over an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typed import session, talker

import tiny

COLOURS, THINGS = tiny.WORDS[:3], tiny.WORDS[3:9]
FACTS = [f"the {thing} and the {colour} {other}" for colour in COLOURS for thing in THINGS[:3] for other in THINGS[3:]]
PAIRS = [{"query": f"{text.split()[1]} {text.split()[5]}", "positive": text} for text in FACTS]
ASKED = [{"question": row["query"], "context": row["positive"], "answer": row["positive"].split()[4]} for row in PAIRS]
ENCODER = {
    "task": "retrieve", "method": "lora", "data": {"train": "pairs.jsonl", "eval": "others.jsonl"}, "steps": 40,
    "batch_size": 27, "learning_rate": 2e-2, "contrastive": {"sizes": [32, 16]}, "name": "encoder",
}  # fmt: skip
READER = {
    "task": "chat", "method": "full", "steps": 6, "learning_rate": 3e-3, "name": "reader", "overlong": "drop",
    "data": {"train": "asked.jsonl", "eval": "held-out.jsonl", "index": "runs/encoder/index", "passages": 2},
    "samples": {"prompts": ["cat tree"], "max_new_tokens": 4},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[..., str]) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.write_jsonl(Path("pairs.jsonl"), PAIRS)
    turned = [pair | {"query": " and ".join(pair["query"].split())} for pair in PAIRS]
    tiny.write_jsonl(Path("others.jsonl"), turned)
    tiny.write_jsonl(Path("asked.jsonl"), ASKED[6:])
    tiny.write_jsonl(Path("held-out.jsonl"), [*ASKED[:6], {"question": "old new", "context": "no such", "answer": "x"}])
    Path("docs").mkdir()
    Path("docs/facts.md").write_text("\n\n".join(FACTS[:20]), encoding="utf-8")
    tiny.write_jsonl(Path("docs/more.jsonl"), [{"text": text} for text in [*FACTS[20:], FACTS[0]]])
    Path("docs/empty.txt").write_text("", encoding="utf-8")
    write("encoder.yaml", ENCODER, tiny_folder("llama"))
    write("reader.yaml", READER, str(talker(tiny_folder("llama"), tmp_path / "llama")))
    return tmp_path


def write(name: str, recipe: dict[str, Any], model: str, **changes: Any) -> None:
    model_keys = {"name": model, **({"template": "plain"} if recipe["task"] == "chat" else {})}
    Path(name).write_text(yaml.safe_dump({**recipe, "model": model_keys, **changes}), encoding="utf-8")


TUNE_AND_INDEX = ("tune encoder.yaml", "index runs/encoder docs --tokens 10 --overlap 0 --json")


def test_from_pairs_to_passages(folder: Path, tiny_folder: Callable[..., str]) -> None:
    tuned, indexed, judged, again, found, by_faiss, other, short, wide = session(
        folder, *TUNE_AND_INDEX, "evaluate runs/encoder --data others.jsonl --json",
        "index runs/encoder docs --tokens 10 --overlap 0 --json", "search runs/encoder cat --json -k 3",
        "search runs/encoder cat --json -k 3 --backend faiss",
        f"search {tiny_folder('llama')} cat --index runs/encoder/index",
        "index runs/encoder docs --to small --tokens 10 --size 16 --json",
        "index runs/encoder docs --to wide --size 65",
    )  # fmt: skip
    assert [answer.code for answer in (tuned, indexed, judged, again)] == [0] * 4, tuned.out + indexed.out + judged.out
    result = json.loads(Path("runs/encoder/result.json").read_text(encoding="utf-8"))
    assert result["after"]["ndcg@10"]["value"] > result["before"]["ndcg@10"]["value"] + 0.3
    assert judged.json["metrics"]["mrr@10"]["value"] == pytest.approx(result["after"]["mrr@10"]["value"])
    assert (indexed.json["entries"], indexed.json["empty"]) == (28, ["docs/empty.txt"])
    assert (again.json["embedded"], len(again.json["kept"])) == ([], 3)
    assert found.code == 0, found.out
    places = {passage["text"]: (passage["file"], passage["line"]) for passage in found.json}
    assert len(places) == 3
    for text, (file, line) in places.items():
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        assert text in lines[line - 1]
    scores = [passage["score"] for passage in found.json]
    assert scores == sorted(scores, reverse=True)
    if by_faiss.code:
        assert "index.faiss" in by_faiss.out
    else:
        assert [passage["text"] for passage in by_faiss.json] == [passage["text"] for passage in found.json]
    assert other.code == 2
    assert "index.other-model" in other.out
    assert short.json["width"] == 16
    assert wide.code == 2
    assert "index.size" in wide.out


def test_answers_come_from_passages_in_training_and_in_use(folder: Path) -> None:
    *_, planned, tuned, asked, chatted, short, judged = session(
        folder, *TUNE_AND_INDEX, "plan reader.yaml --json", "tune reader.yaml",
        ("predict runs/reader --json", "cat tree\n"),
        ("chat runs/reader --json --max-new-tokens 2", "cat tree\n"),
        ("predict runs/reader --json --max-new-tokens 2", "cat tree\n"),
        "evaluate runs/reader --data held-out.jsonl --json",
    )  # fmt: skip
    assert [answer.code for answer in (planned, tuned, asked, chatted, judged)] == [0] * 5, (
        tuned.out + asked.out + judged.out
    )
    result = json.loads(Path("runs/reader/result.json").read_text(encoding="utf-8"))
    counts = result["data"]["eval"]["passages"]
    assert (counts["asked"], counts["judged"]) == (7, 7)
    assert 1 <= counts["missed"] < 7  # what the last row asks stands nowhere
    assert judged.json["passages"] == counts
    assert "data.passages-missed" in {finding["code"] for finding in result["findings"]}
    # What is asked is laid out as what was learned: the same passages, a blank line between, then the question.
    (answer,) = asked.json
    assert [set(passage) >= {"text", "file", "line", "score"} for passage in answer["passages"]] == [True, True]
    prompt = "\n\n".join([*(passage["text"] for passage in answer["passages"]), "cat tree"])
    samples = [json.loads(line)["input"] for line in Path("runs/reader/samples.jsonl").read_text().splitlines()]
    assert [sample for sample in samples if sample == f"user: {prompt}"]
    assert json.loads(chatted.out)["passages"] == answer["passages"]
    # One after the other, or by itself: the same answer.
    assert json.loads(chatted.out)["text"] == short.json[0]["text"]


def test_a_row_that_asks_nothing_and_a_task_without_questions_are_refused(folder: Path) -> None:
    with Path("asked.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"question": " ", "answer": "x"}\n{"messages": []}\n')
    write("lost.yaml", {**READER, "data": {**READER["data"], "index": "nowhere"}}, "llama")
    write("pairs.yaml", {**ENCODER, "data": {"train": "pairs.jsonl", "index": "runs/encoder/index"}}, "llama")
    *_, wrong, lost, pairs = session(
        folder, *TUNE_AND_INDEX, "check reader.yaml --json", "check lost.yaml --json", "check pairs.yaml --json"
    )
    found = {finding["where"]: finding["code"] for finding in wrong.json["findings"] if finding["severity"] == "error"}
    assert found == {"asked.jsonl:22:question": "data.no-question", "asked.jsonl:23:question": "data.no-question"}
    assert "index.missing" in {finding["code"] for finding in lost.json["findings"]}
    assert "data.index" in {finding["where"] for finding in pairs.json["findings"]}
