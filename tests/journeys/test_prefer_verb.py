"""Preferences with the real command: HH-RLHF's transcripts in, a model that prefers what was chosen out."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typed import session

import tiny

ROWS = 48
FIRST = {"preference_accuracy": 0.5, "reward_margin": 0.0, "kl": 0.0}


def read(path: Path, count: int = 10**6) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record for record in found if record["kind"] == kind]


def test_transcripts_train_and_empty_answers_are_told(
    shared: Callable[[str], Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """The whole file is read: three answers in it are empty. Short rows train, with dropout in the config."""
    source = shared("data/hh_harmless/pairs.jsonl.gz")
    model = tiny_folder("llama", max_position_embeddings=512, attention_dropout=0.2)
    (checked,) = session(tmp_path, f"check --task prefer --model {model} --data {source} overlong=drop --json")
    told = [one for one in checked.json["findings"] if one["code"] == "data.empty-target"]
    assert [one["where"].rpartition("/")[2] for one in told] == [
        f"pairs.jsonl.gz:{line}:chosen" for line in (417, 732, 861)
    ]
    short = sorted(read(source)[:400], key=lambda row: len(row["chosen"]) + len(row["rejected"]))
    tiny.write_jsonl(tmp_path / "pairs.jsonl", short[:ROWS])
    words = (
        f"--task prefer --model {model} --data pairs.jsonl --method lora data.eval=0.25 overlong=drop max_length=512 "
        "batch_size=8 steps=20 eval_every=10 learning_rate=5e-3 final=last lora.dropout=0.2 name=hh"
    )
    tuned, evaluated, said = session(
        tmp_path, f"tune {words}", "evaluate runs/hh --data pairs.jsonl --json", "predict runs/hh Hello --json"
    )
    assert tuned.code == evaluated.code == said.code == 0, tuned.out + tuned.err + evaluated.err + said.err
    first, *_, last = records(tmp_path / "runs/hh", "train")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {name: first[name] for name in FIRST} == pytest.approx(FIRST, abs=1e-6)
    assert first["chosen_reward"] == pytest.approx(0, abs=1e-6)
    assert last["loss"] < 0.6
    assert last["reward_margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], abs=1e-5)
    assert last["kl"] > 0
    result = json.loads((tmp_path / "runs/hh/result.json").read_text(encoding="utf-8"))
    assert result["before"]["loss"]["value"] == pytest.approx(math.log(2), abs=1e-6)
    assert {*FIRST, "loss", "chosen_reward", "rejected_reward"} == result["after"].keys()
    assert evaluated.json["metrics"]["preference_accuracy"]["value"] > 0.7
    assert isinstance(said.json[0]["text"], str)
    page = (tmp_path / "runs/hh/report.html").read_text(encoding="utf-8")
    assert "preference accuracy" in page
    assert "Reward of held-out answers" in page


def test_what_is_judged_after_a_full_run_is_judged_by_the_model_it_came_from(
    tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """Evaluated in another process, whose reference is opened anew: the metrics of the run's own end."""
    rows = [{"prompt": f"the {word} {at}", "chosen": "red", "rejected": "blue cat"}
            for at in range(3) for word in tiny.WORDS[3:]]  # fmt: skip
    for name, some in (("train", rows[8:]), ("eval", rows[:8])):
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", some)
    keys = "data.train=train.jsonl data.eval=eval.jsonl steps=4 learning_rate=1e-3 final=last name=full method=full"
    tuned, evaluated = session(
        tmp_path,
        f"tune --task prefer --model {tiny_folder('llama')} {keys}",
        "evaluate runs/full --data eval.jsonl --json",
    )
    assert tuned.code == evaluated.code == 0, tuned.out + tuned.err + evaluated.err
    after = json.loads((tmp_path / "runs/full/result.json").read_text(encoding="utf-8"))["after"]
    for name, expected in after.items():
        assert evaluated.json["metrics"][name]["value"] == pytest.approx(expected["value"], rel=1e-5, abs=1e-6), name


def test_bad_rows_are_told_all_at_once(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """A tie, the same answer twice, an empty one, no prompt, another prompt, a judgement of neither."""
    good = {"prompt": "the cat", "chosen": "red", "rejected": "blue"}
    rows = [
        good, good | {"score_chosen": 3, "score_rejected": 3}, good | {"rejected": "red "}, good | {"chosen": " "},
        {"chosen": "red", "rejected": "blue"}, good | {"score_chosen": 1, "score_rejected": 2},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
        good | {"prompt": " "},
    ]  # fmt: skip
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    words = f"--task prefer --model {tiny_folder('llama')} --data rows.jsonl data.eval=0"
    checked, skipped = session(
        tmp_path, f"check {words} --json", f"check {words} data.on_bad_row=skip data.max_bad_rows=8 --json"
    )
    assert checked.code == 2
    found = {one["where"]: one["code"] for one in checked.json["findings"] if one["severity"] == "error"}
    assert found == {
        "rows.jsonl:2:score_chosen": "data.tie", "rows.jsonl:3:rejected": "data.same-answers",
        "rows.jsonl:4:chosen": "data.empty-target", "rows.jsonl:5:chosen": "data.no-prompt",
        "rows.jsonl:6:score_chosen": "data.score-order", "rows.jsonl:7:rejected": "data.prompt-differs",
        "rows.jsonl:8:prompt": "data.empty-text",
    }  # fmt: skip
    assert skipped.code == 0, skipped.out


def test_a_reward_model_scores_answers(
    shared: Callable[[str], Path], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    """On HH-RLHF's short rows, by a decoder and by an encoder: held-out pairs told apart, and scores asked for."""
    short = sorted(read(shared("data/hh_harmless/pairs.jsonl.gz"))[:400], key=lambda row: len(str(row)))[:ROWS]
    tiny.write_jsonl(tmp_path / "pairs.jsonl", short)
    asked = [
        {"prompt": "Hi", "completion": "Hello"}, {"messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}]}, short[0],
    ]  # fmt: skip
    tiny.write_jsonl(tmp_path / "asked.jsonl", asked)
    for name, more in (("llama", ""), ("bert", " model.template=plain")):
        model = tiny_folder(name, max_position_embeddings=512)
        words = (
            f"--task reward --model {model} --data pairs.jsonl --method lora data.eval=0.25 overlong=drop "
            f"max_length=512 batch_size=8 steps=20 learning_rate=5e-3 final=last name={name}{more}"
        )
        tuned, evaluated, said, refused = session(
            tmp_path, f"tune {words}", f"evaluate runs/{name} --data pairs.jsonl --json",
            f"predict runs/{name} --data asked.jsonl --json", f"predict runs/{name} Hello",
        )  # fmt: skip
        assert tuned.code == evaluated.code == said.code == 0, tuned.out + tuned.err + evaluated.err + said.err
        assert records(tmp_path / f"runs/{name}", "train")[-1]["loss"] < 0.65
        assert evaluated.json["metrics"]["preference_accuracy"]["value"] > 0.7
        assert 0 <= evaluated.json["metrics"]["calibration_error"]["value"] < 0.5
        first, same, pair = said.json
        assert first["score"] == pytest.approx(same["score"], abs=1e-5)
        assert pair["probable"] == pytest.approx(1 / (1 + math.exp(pair["rejected"] - pair["chosen"])))
        assert refused.code == 2
        assert "run.score" in refused.out + refused.err


@pytest.mark.slow
def test_a_run_in_use(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Planned, tuned, merged, talked to and compared, by both tasks and on thumbs."""
    pairs = [{"prompt": f"the {word} {at}", "chosen": "red", "rejected": "blue cat"}
             for at in range(4) for word in tiny.WORDS[3:]]  # fmt: skip
    thumbs = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
              for row, side in zip(pairs, ("chosen", "rejected") * 22, strict=True)]  # fmt: skip
    tiny.write_jsonl(tmp_path / "pairs.jsonl", pairs)
    tiny.write_jsonl(tmp_path / "thumbs.jsonl", thumbs)
    for task, file in (("prefer", "pairs"), ("prefer", "thumbs"), ("reward", "pairs")):
        words = f"--task {task} --model {tiny_folder('llama')} --data {file}.jsonl data.eval=0.25 steps=4"
        name = f"{task}-{file}"
        tuned, merged = session(
            tmp_path, f"tune {words} learning_rate=1e-2 final=last name={name}", f"export runs/{name} merged --json"
        )
        assert tuned.code == merged.code == 0, tuned.out + tuned.err + merged.err
        assert merged.json["relative"] < 1e-4
    checked, planned = session(tmp_path, f"check {words} --json", f"plan {words} --json")
    assert checked.code == planned.code == 0, checked.out + planned.err
    assert planned.json["model"]["parameters"] > 0
    said = "".join(text for text, _ in checked.json["rows"][0]["runs"])
    assert said.index("red") < said.index("blue")
    talked, compared = session(
        tmp_path, ("chat runs/prefer-pairs", "the cat\n"),
        f"compare --task prefer --model {tiny_folder('llama')} --data pairs.jsonl data.eval=0.25 steps=2 "
        "--methods lora,ia3 --json",
    )  # fmt: skip
    assert talked.code == 0, talked.err
    assert compared.code == 0, compared.out + compared.err
