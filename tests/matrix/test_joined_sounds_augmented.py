"""Sounds beside text, changed each time they are learned: by the seed, the epoch and the row, in each of its places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
import tiny
from luthier.runs.augmenting import Augmented

CHANGED = {"speeds": [0.8, 1.25], "time_masks": 1, "band_masks": 1}


def recipe(task: str, out: Path, ear: str, fuse: Any) -> dict[str, Any]:
    """12 tones of 0.3 to 0.5 s with a word each; conversations have two of them."""
    rows: list[dict[str, Any]] = []
    for i in range(12):
        tiny.save_tone(out / f"s/{i}.wav", [300.0 + 1500 * (i % 2)], seconds=0.3 + 0.1 * (i % 3), seed=i)
        rows.append({"audio": f"s/{i}.wav", "text": ("red", "green")[i % 2]})
    if task == "chat":
        rows = [
            {"messages": [
                {"role": "user", "content": f"<audio> the <audio> and {tiny.WORDS[i]}"},
                {"role": "assistant", "content": row["text"]},
            ], "audios": [row["audio"], f"s/{(i + 5) % 12}.wav"]} for i, row in enumerate(rows)
        ]  # fmt: skip
    model = {"audio": tiny.save_sound_model(ear, out / "ear"), "text": tiny.save("llama", out / "lm"), "fuse": fuse}
    return {
        "task": task, "model": model, "data": {"train": tiny.write_jsonl(out / "rows.jsonl", rows), "eval": 0.0},
        "method": "full", "steps": 4, "batch_size": 6, "save_every": 2, "out": str(out), "final": "last",
        "learning_rate": 1e-3, "schedule": "constant", "warmup": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "ear", "fuse"),
    [
        ("transcribe", "wav2vec2-bert", {"projection": {"pool": 2}}), ("chat", "wav2vec2-bert", "projection"),
        ("chat", "whisper", {"projection": {"pool": 1}}), ("transcribe", "wav2vec2-bert", "cross_attention"),
    ],
)  # fmt: skip
def test_a_row_has_the_places_of_what_it_hears(task: str, ear: str, fuse: Any, tmp_path: Path) -> None:
    """As if the sound had been that fast in its file: the same tokens, labels and ends; the same again when asked."""
    from luthier.models.audio.sounds import Clip

    _, prepared = luthier.check(**recipe(task, tmp_path, ear, fuse), augment=CHANGED)
    assert prepared is not None
    backbone: Any = prepared.backbone
    changed = Augmented(prepared, 2)
    rows = prepared.train.rows
    first, again, later = (changed.rows(step, rows) for step in (0, 1, 2))
    assert [row["pictures"] for row in first] == [row["pictures"] for row in again]
    assert [row["masks"] for row in first] == [row["masks"] for row in again]
    assert [row["masks"] for row in first] != [row["masks"] for row in later]
    lengths = set()
    for row, made in zip(rows, first, strict=True):
        places = [len(backbone.places(key)) for key in made["pictures"]]
        assert made["input_ids"].count(backbone.mark_id) == sum(places)
        told, was = (
            [(t, s) for t, s in zip(one["input_ids"], one["supervised"], strict=True) if t != backbone.mark_id]
            for one in (made, row)
        )
        assert told == was
        assert [made["input_ids"][end] for end in made.get("turn_ends", [])] == [
            row["input_ids"][end] for end in row.get("turn_ends", [])
        ]
        lengths.add(len(made["input_ids"]) - len(row["input_ids"]))
        sounds = prepared.train.examples[row["row"]].sounds or []
        for sound, key in zip(sounds, made["pictures"], strict=True):
            assert key in {backbone.sounds.heard(Clip(sound, speed)).key for speed in CHANGED["speeds"]}  # type: ignore[attr-defined]
    assert (lengths == {0}) == (fuse == "cross_attention")
    assert len({str(made["masks"][0]) for made in first}) > 6  # each row's are its own
    if task == "chat":
        assert all(made["masks"][0] != made["masks"][1] for made in first)  # and each sound's of a row


def test_a_masked_sound_is_hidden_where_its_row_says(tmp_path: Path) -> None:
    _, prepared = luthier.check(**recipe("transcribe", tmp_path, "wav2vec2-bert", "projection"), augment=CHANGED)
    assert prepared is not None
    backbone: Any = prepared.backbone
    row = prepared.train.rows[0]
    key = row["pictures"][0]
    plain = backbone.sounds.features(key)
    (hidden,) = backbone.pictures.pixels([(key, {"steps": [(2, 5)], "bands": []})])
    assert torch.equal(hidden[2:5], plain.mean().expand_as(hidden[2:5]))
    assert torch.equal(hidden[:2], plain[:2])
    assert torch.equal(hidden[5:], plain[5:])


def test_a_run_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    base = recipe("chat", tmp_path, "wav2vec2-bert", {"projection": {"pool": 2}})
    found = {
        name: load_file(luthier.tune(**base, **keys, name=name).folder / "final/model.safetensors")
        for name, keys in (
            ("whole", {"augment": CHANGED}), ("small", {"augment": CHANGED, "micro_tokens": 60}), ("plain", {}),
        )
    }  # fmt: skip
    for key, tensor in found["whole"].items():
        if not key.endswith("linear_k.bias"):  # which has no gradient but for rounding
            assert tensor.allclose(found["small"][key], atol=2e-4), key  # four steps of Adam, at 1e-3
    assert not all(tensor.allclose(found["plain"][key], atol=2e-4) for key, tensor in found["whole"].items())

    # As if it had been killed after half of its steps: the same command goes on, to the same bits.
    run = tmp_path / "whole"
    (last,) = (run / "checkpoints").glob("*4")
    for gone in (last, run / "final"):
        shutil.rmtree(gone)
    (run / "result.json").unlink()
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "running"}))
    again = load_file(luthier.tune(**base, augment=CHANGED, name="whole").folder / "final/model.safetensors")
    assert all(tensor.equal(again[key]) for key, tensor in found["whole"].items())
