"""Languages that a tokenizer marks in source and target, as transformers puts them: NLLB first, mBART last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import luthier
import tiny
from luthier.models.languages import codes

ROWS = [
    {"translation": {"en": f"the {one}", "de": f"{one} {two}"}}
    for one in tiny.WORDS[:6] for two in tiny.WORDS[6:9]
]  # fmt: skip
SAID = {"nllb": {"source": "en", "target": "de", "codes": {"en": "eng_Latn", "de": "deu_Latn"}},
        "mbart": {"source": "en", "target": "de"}}  # fmt: skip
CODES = {"nllb": ("eng_Latn", "deu_Latn"), "mbart": ("en_XX", "de_DE")}


def _tokenizer(kind: str) -> Any:
    """Letters are its words."""
    words = [f"▁{word}" for word in tiny.WORDS]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted({letter for word in words for letter in word})]
    if kind == "nllb":
        return transformers.NllbTokenizer(vocab={token: at for at, token in enumerate(tokens)}, merges=[])
    return transformers.MBartTokenizer(vocab=[(token, -float(at)) for at, token in enumerate(tokens)])


@pytest.fixture(params=["nllb", "mbart"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str, tmp_path: Path) -> str:
    tokenizer = _tokenizer(kind)
    sizes: dict[str, Any] = {"d_model": 32, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}
    for stack in ("encoder", "decoder"):
        sizes |= {f"{stack}_layers": 1, f"{stack}_attention_heads": 2, f"{stack}_ffn_dim": 48}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    made = transformers.AutoConfig.for_model({"nllb": "m2m_100", "mbart": "mbart"}[kind], **sizes, **ids)
    torch.manual_seed(0)
    transformers.AutoModelForSeq2SeqLM.from_config(made).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def _recipe(kind: str, model: str, folder: Path, **changes: Any) -> dict[str, Any]:
    data = tiny.write_jsonl(folder / "rows.jsonl", ROWS)
    said = {"max_new_tokens": 6, **SAID[kind], **changes}
    return {"task": "translate", "model": model, "method": "full", "data": {"train": data, "eval": 0.25}, "steps": 2,
            "out": str(folder / "run"), "translate": said}  # fmt: skip


def test_rows_are_those_of_transformers(kind: str, model: str, tmp_path: Path) -> None:
    findings, prepared = luthier.check(
        _recipe(kind, model, tmp_path) | {"data": {"train": str(tmp_path / "rows.jsonl"), "eval": 0.0}}
    )
    assert not [finding for finding in findings if finding.severity == "error"]
    theirs = transformers.AutoTokenizer.from_pretrained(model)
    theirs.src_lang, theirs.tgt_lang = CODES[kind]
    for row in prepared.train.rows:
        pair = ROWS[prepared.train.examples[row["row"]].source.line - 1]["translation"]
        expected = theirs(pair["en"], text_target=pair["de"])
        assert (row["input_ids"], row["target_ids"]) == (expected["input_ids"], expected["labels"])


def test_an_answer_begins_with_the_language(kind: str, model: str, tmp_path: Path) -> None:
    """As transformers writes it, told the target's code by hand."""
    run = luthier.load(luthier.tune(_recipe(kind, model, tmp_path)).folder)
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(run.folder / "final").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    source, target = CODES[kind]
    tokenizer.src_lang = source
    code = tokenizer.convert_tokens_to_ids(target)
    begin = {"forced_bos_token_id": code} if kind == "nllb" else {"decoder_start_token_id": code}
    for text in ("the red", "the old"):
        grown = theirs.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=6, do_sample=False, **begin)
        assert code in grown[0, :2].tolist()
        (answer,) = run.predict([text])
        assert answer["text"] == tokenizer.decode(grown[0], skip_special_tokens=True).strip()


def test_a_language_that_it_does_not_know_is_refused_with_the_nearest(kind: str, model: str, tmp_path: Path) -> None:
    wrong = {"nllb": "deu_Latin", "mbart": "de_De"}[kind]
    findings, _ = luthier.check(_recipe(kind, model, tmp_path, codes={"en": CODES[kind][0], "de": wrong}))
    (found,) = [finding for finding in findings if finding.severity == "error"]
    assert (found.code, found.where) == ("task.language", "translate.target")
    assert CODES[kind][1] in found.mend


def test_rows_by_language_want_to_know_which_is_which(kind: str, model: str, tmp_path: Path) -> None:
    recipe = _recipe(kind, model, tmp_path)
    del recipe["translate"]
    findings, _ = luthier.check(recipe)
    (found,) = [finding for finding in findings if finding.severity == "error"]
    assert found.code == "task.language"
    assert "translate.source: en" in found.mend


def test_codes_are_listed(kind: str) -> None:
    assert set(CODES[kind]) <= set(codes(_tokenizer(kind)))
