"""The first examples that everybody tries, through the public interface."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
import transformers

import luthier
import tiny
from luthier.cli.main import main
from luthier.reports.console import trainable_line

GPT2_LINE = "trainable params: 294,912 || all params: 124,734,720 || trainable%: 0.2364"


def test_bert_with_two_labels_full_two_epochs_batch_two(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """24 rows, 2 a step, 2 epochs: 24 steps. All numbers train. The saved model has the labels by name."""
    rows = toys.rows("single", 24, seed=1)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    run = luthier.tune(
        task="classify", model=tiny_folder("bert"), data=data, method="full", epochs=2, batch_size=2,
        learning_rate=2e-3, out=str(tmp_path / "runs"),
    )  # fmt: skip
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(losses) == run.result["steps"] == 24
    assert sum(losses[12:]) < sum(losses[:12])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run.folder / "final")
    assert model.config.id2label == {0: "green", 1: "red"}
    assert run.result["trainable"] == run.result["parameters"] == sum(p.numel() for p in model.parameters())
    (answer,) = run.predict([rows[0]["text"]])
    assert answer["label"] in ("green", "red")
    assert answer["probability"] >= 0.5


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """GPT2Config() as it is: 124,439,808 random numbers; and the recipe of the classic LoRA example."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder / "model")
    tiny.tokenizer(encoder=False).save_pretrained(folder / "model")
    lora = {"rank": 8, "alpha": 32, "dropout": 0.1, "targets": ["qkv"]}
    yield {
        "task": "complete", "model": str(folder / "model"), "method": "lora", "lora": lora,
        "data": tiny.write_jsonl(folder / "rows.jsonl", [{"text": "the red cat"}]),
    }  # fmt: skip
    (folder / "model" / "model.safetensors").unlink()  # half a gigabyte that no one needs again


def test_gpt2_lora_counts(gpt2: dict[str, Any]) -> None:
    """12 blocks, each one matrix 768 → 2304: A has 8 · 768 numbers and B 2304 · 8, so 12 · 8 · 3072 = 294,912."""
    findings, prepared = luthier.check(gpt2)
    assert [finding for finding in findings if finding.severity == "error"] == []
    trainable = sum(p.numel() for p in prepared.adaptation.parameters.values())
    assert trainable == 12 * 8 * (768 + 2304)
    assert trainable_line(trainable, sum(p.numel() for p in prepared.backbone.model.parameters())) == GPT2_LINE


def test_gpt2_lora_as_the_command_prints_it(
    gpt2: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(gpt2), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "steps=1", f"out={tmp_path}/runs"])
    assert ended.value.code == 0
    assert GPT2_LINE in capsys.readouterr().out.splitlines()
    (final,) = tmp_path.glob("runs/*/final")
    assert json.loads((final / "adapter_config.json").read_text())["fan_in_fan_out"] is True
