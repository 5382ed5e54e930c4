"""Runs that summarize, in use: what is written, exported and embedded; and real rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
import transformers

import luthier
import tiny
from luthier.embed import embed_file
from luthier.evaluate import rouge


@pytest.fixture(scope="module")
def run(tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A T5 that has learned to say the colour, by LoRA on its attention to the source and nothing else."""
    folder = tmp_path_factory.mktemp("summaries")
    return luthier.tune(
        task="summarize", model=tiny_folder("t5"), data=toys.write("summarize", folder), out=str(folder / "runs"),
        method={"lora": {"rank": 8, "targets": ["cross_attention"]}}, learning_rate=3e-2, steps=40, batch_size=32,
        final="last",
    )  # fmt: skip


def test_only_the_attention_to_the_source_was_trained(run: Any) -> None:
    """Four matrices in each of two decoder blocks, each with an A and a B."""
    (group,) = run.result["trained"]
    assert (group["role"], group["tensors"]) == ("attention", 2 * 4 * 2)
    config = json.loads((run.folder / "final" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    assert all("EncDecAttention" in name for name in config["target_modules"])


def test_merged_it_writes_the_same_with_transformers_alone(run: Any) -> None:
    documents = [row["document"] for row in toys.rows("summarize", 6, seed=3)]
    told = run.export("merged")
    assert told["difference"] <= told["bound"]
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(told["folder"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(told["folder"])
    for beams in (1, 3):
        ours = [answer["text"] for answer in run.predict(documents, max_new_tokens=8, num_beams=beams)]
        grown = [
            model.generate(torch.tensor([tokenizer(text)["input_ids"]]), max_new_tokens=8, num_beams=beams)
            for text in documents
        ]
        assert ours == [tokenizer.decode(ids[0], skip_special_tokens=True).strip() for ids in grown]


@pytest.mark.parametrize(("name", "method"), [("t5", "lora"), ("bart", "full"), ("llama", "lora")])
def test_the_code_of_the_card_writes_a_summary(
    name: str, method: str, tiny_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Run as it stands, beside the weights: it writes what the run answers."""
    made = luthier.tune(
        task="summarize", model=tiny_folder(name), data=toys.write("summarize", tmp_path), out=str(tmp_path / "runs"),
        method=method, steps=2, summarize={"prefix": "the old "},
    )  # fmt: skip
    card = (made.folder / "final" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: summarization" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    expected = made.predict(["A document to summarize."], max_new_tokens=100)[0]["text"]
    monkeypatch.chdir(made.folder / "final")
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})  # the card's own code is what is tested
    assert capsys.readouterr().out.strip() == expected


def test_a_row_may_be_given_whole_or_as_text(run: Any) -> None:
    document = toys.rows("summarize", 1, seed=4)[0]["document"]
    given = [document, {"document": document}, {"article": document, "summary": "x"}, {"text": f"  {document}\n"}]
    answers = run.predict(given, max_new_tokens=4)
    assert len({answer["text"] for answer in answers}) == 1


def test_its_vectors_are_means_over_the_encoder(run: Any, tmp_path: Path) -> None:
    """Computed by transformers on the merged model."""
    texts = [row["document"] for row in toys.rows("summarize", 3, seed=5)]
    rows = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    told = embed_file(str(run.folder), rows, str(tmp_path / "vectors.npy"))
    assert told["pooling"] == "mean"
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(run.export("merged")["folder"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.folder / "final")
    for text, found_D in zip(texts, np.load(tmp_path / "vectors.npy"), strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        expected_D = model.get_encoder()(input_ids=ids).last_hidden_state[0].mean(0).detach().numpy()
        np.testing.assert_allclose(found_D, expected_D, atol=1e-5)


def test_rouge_is_of_what_it_writes(run: Any) -> None:
    """Recomputed from the samples, which are all the held-out rows here."""
    if not rouge.available():
        pytest.skip("rouge-score is not installed")
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    expected = rouge.with_intervals([s["after"] for s in samples], [[s["target"]] for s in samples])
    assert {kind: run.result["after"][kind] for kind in rouge.KINDS} == expected


def test_a_classifier_whose_rows_do_not_end_is_refused(tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """A T5 with the tokenizer of a decoder, which does not close a text."""
    model = tmp_path / "model"
    tiny.save("t5", model)
    tiny.tokenizer(encoder=False).save_pretrained(model)
    findings, _ = luthier.check(task="classify", model=str(model), data=toys.write("single", tmp_path), method="lora")
    assert [finding.code for finding in findings if finding.severity == "error"] == ["model.open-end"]


def test_ids_of_targets_must_be_in_the_table(tmp_path: Path) -> None:
    """Only the summaries hold the word that the model has no row for."""
    model = tmp_path / "model"
    tiny.save("t5", model)
    tokenizer = tiny.tokenizer(encoder=False, closes=True)
    tokenizer.add_tokens(["colour"])
    tokenizer.save_pretrained(model)
    rows = [{**row, "summary": "the colour"} for row in toys.rows("summarize", 4, seed=0)]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, _ = luthier.check(task="summarize", model=str(model), data=data, method="lora")
    assert {finding.code for finding in findings if finding.severity == "error"} == {"model.vocabulary"}


def test_real_abstracts_with_several_summaries(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """SciTLDR on a real decoder: documents are cut, no summary is, and each row ends in the terminator."""
    with gzip.open(shared("data/scitldr/dev.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:48]
    assert any(len(row["summaries"]) > 1 for row in rows)
    recipe = {
        "task": "summarize", "model": str(shared("models/stories260k-fp32")), "out": str(tmp_path), "steps": 2,
        "data": {"train": tiny.write_jsonl(tmp_path / "rows.jsonl", rows), "eval": 0.1}, "method": "full",
    }  # fmt: skip
    _, prepared = luthier.check(recipe)
    assert prepared.errors == []
    ends = prepared.task.terminators(prepared.backbone)
    for row in prepared.train.rows:
        assert len(row["input_ids"]) <= 512
        taught = [token for token, yes in zip(row["input_ids"], row["supervised"], strict=True) if yes]
        assert taught[-1] in ends
        summary = prepared.train.examples[row["row"]].targets[0]
        assert prepared.backbone.tokenizer.decode(taught[:-1]).strip() == summary.strip()
    run = luthier.tune(recipe)
    assert run.finished
    assert all(isinstance(answer["text"], str) for answer in run.predict(rows[:2], max_new_tokens=8))
