"""Sounds as a person uses them: bad files told by row, a tiny transcriber from nothing, words in time, a killed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file
from typed import session

import luthier
import tiny
from luthier.types import Refused

PITCHES = {"a": 400.0, "b": 900.0, "c": 1600.0}


def spoken(folder: Path, count: int, seed: int = 0, *, rate: int = 16000) -> list[dict]:
    """Words of tones: a letter is a pitch."""
    draw, rows = np.random.default_rng(seed), []
    for i in range(count):
        text = "".join(draw.choice(list(PITCHES), draw.integers(1, 4)))
        name = f"sounds/{seed}-{i}.wav"
        tiny.save_tone(
            folder / name, [PITCHES[letter] for letter in text], seconds=0.1, seed=1000 * seed + i, rate=rate
        )
        rows.append({"audio": name, "text": text})
    return rows


def test_bad_sounds_are_told_by_row_before_the_first_step(tmp_path: Path) -> None:
    model = tiny.save_sound_model("wav2vec2", tmp_path / "model")
    rows = [row | {"label": "xy"[i % 2]} for i, row in enumerate(spoken(tmp_path, 6))]
    rows = [{"audio": row["audio"], "label": row["label"]} for row in rows]
    loud = np.clip(3 * np.sin(np.arange(8000) / 5), -1, 1)
    for name, samples in (("silent", np.zeros(8000)), ("empty", np.zeros(0)), ("clipped", loud)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    soundfile.write(tmp_path / "both.wav", np.stack([loud, -0.2 * loud], 1) * 0.3, 44100)
    (tmp_path / "text.wav").write_text("no sound")
    bad = ["silent.wav", "empty.wav", "text.wav", "gone.wav"]
    rows += [{"audio": name, "label": "x"} for name in ("clipped.wav", "both.wav", *bad)]
    rows.append({"audio": {"array": [0.1, -0.1] * 400, "sampling_rate": None}, "label": "x"})
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    words = f"tune --task classify --model {model} --data rows.jsonl --method full"
    (refused,) = session(tmp_path, words)
    assert refused.code == 2
    told = " ".join((refused.out + refused.err).split())
    reasons = ("is silent", "has 0 samples", "is no sound", "no such file", "no sample rate")
    for line, why in zip(range(9, 14), reasons, strict=True):
        assert f"rows.jsonl:{line}:audio" in told
        assert why in told
    assert not (tmp_path / "runs").exists()

    # Left out where that is wished; what was converted and what is clipped is told.
    data = {"train": str(tmp_path / "rows.jsonl"), "on_bad_row": "skip"}
    keys = {"task": "classify", "model": model, "data": data, "method": "full", "steps": 1, "out": str(tmp_path)}
    findings, _ = luthier.check(**keys)
    told = [str(finding) for finding in findings]
    assert any("rows.jsonl:7:audio: is clipped" in one for one in told)
    assert any("1 2 channels: their mean, 1 44,100 Hz: to 16,000" in one for one in told)
    run = luthier.tune(**keys)
    used = run.result["data"]["train"]
    assert used["used"] + used["skipped"]["unusable"] == len(rows)
    assert run.predict([str(tmp_path / rows[0]["audio"])])[0]["label"] in ("x", "y")


def test_transcripts_that_can_not_be_said_are_named(tmp_path: Path) -> None:
    """Three tones, half a second, make 25 frames at most; thirty times "a" needs 59. Signs alone say nothing."""
    model = tiny.save_sound_model("wav2vec2", tmp_path / "model")
    rows = spoken(tmp_path, 6)
    rows[4]["text"] = "a" * 30
    rows[5]["text"] = "…"
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, _ = luthier.check(task="transcribe", model=model, data=data, method="full")
    told = {finding.where.rpartition("/")[2]: finding.code for finding in findings if finding.severity == "error"}
    assert told == {"rows.jsonl:6:text": "data.empty-target"}
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows[:5])
    findings, _ = luthier.check(task="transcribe", model=model, data=data, method="full")
    told = {finding.where.rpartition("/")[2]: finding.code for finding in findings if finding.severity == "error"}
    assert told == {"rows.jsonl:5:audio": "data.ctc-infeasible"}


def test_letters_that_a_model_lacks(tmp_path: Path) -> None:
    """A model with capital letters alone is taught in capitals; digits it has none for."""
    from luthier.models.audio.ears import made_of

    model = tiny.save_sound_model("wav2vec2", tmp_path / "model", vocab_size=5, pad_token_id=0)
    made_of(["A", "B"]).save_pretrained(model)
    rows = spoken(tmp_path, 8)
    for at, row in enumerate(rows):
        row["text"] = ("ab", "ba", "a", "b9")[at % 4]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, prepared = luthier.check(task="transcribe", model=model, data=data, method="full")
    (found,) = (finding for finding in findings if finding.code == "model.letters")
    assert (found.severity, found.what.endswith("among the model's 5: 9")) == ("warning", True)
    assert prepared.train.rows[0]["labels"] == [3, 4]


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a Wav2Vec2-BERT of one layer, from random weights, that hears three tones."""
    folder = tmp_path_factory.mktemp("transcriber")
    tiny.save_sound_model("wav2vec2-bert", folder / "model", initializer_range=0.02, num_hidden_layers=1)
    tiny.write_jsonl(folder / "train.jsonl", spoken(folder, 60))
    tiny.write_jsonl(folder / "eval.jsonl", spoken(folder, 12, seed=1))
    luthier.tune(
        task="transcribe", model={"name": str(folder / "model"), "init": "random"}, method="full",
        data={"train": str(folder / "train.jsonl"), "eval": str(folder / "eval.jsonl")}, out=str(folder), name="run",
        learning_rate=5e-3, epochs=24, batch_size=6, eval_every=120, seed=0,
    )  # fmt: skip
    return folder


def test_tones_are_written_down(transcriber: Path) -> None:
    run = luthier.load(transcriber / "run")
    assert run.result["after"]["cer"]["value"] < 0.2
    assert run.result["after"]["wer"]["normalizer"] == "words"
    rows = [json.loads(line) for line in (transcriber / "eval.jsonl").read_text().splitlines()]
    answers = run.predict([str(transcriber / row["audio"]) for row in rows])
    assert sum(a["text"] == row["text"] for a, row in zip(answers, rows, strict=True)) >= 8
    wide = luthier.load(transcriber / "run", ["transcribe.num_beams=8"]).evaluate(str(transcriber / "eval.jsonl"))
    assert wide["metrics"]["cer_beams"]["value"] <= 0.2


def test_a_known_text_is_laid_over_its_sound(transcriber: Path) -> None:
    """Three words of one tone each, with half a second of quiet between them: each is found where it sounds."""
    parts, places, at = [np.zeros(3200)], [], 0.2
    time = np.arange(1600) / 16000
    for letter in "abc":
        parts += [0.3 * np.sin(2 * np.pi * PITCHES[letter] * time), np.zeros(8000)]
        places.append((at, at + 0.1))
        at += 0.6
    path = transcriber / "three.wav"
    (transcriber / "words.txt").write_text("A, b; c!\n")
    samples = np.concatenate(parts)
    soundfile.write(path, samples + np.random.default_rng(0).normal(0, 0.01, len(samples)), 16000)
    (answer,) = luthier.load(transcriber / "run").predict([{"audio": str(path), "text": "a b c"}])
    long = "A,b;c" + "!" * 300  # more than a file's name may hold
    told, typed = session(transcriber, "align run three.wav --text words.txt", f"align run three.wav --text {long}")
    assert typed.out == told.out
    lines = [line.split("\t") for line in told.out.strip().split("\n")]
    assert lines == [[f"{w['start']:.3f}", f"{w['end']:.3f}", w["word"]] for w in answer["words"]]
    assert [word["word"] for word in answer["words"]] == ["a", "b", "c"]
    for word, (start, stop) in zip(answer["words"], places, strict=True):
        assert start - 0.1 <= word["start"] <= word["end"] <= stop + 0.1


def test_long_sounds_are_answered_in_parts(transcriber: Path) -> None:
    """Five sounds with pauses between them, in windows of 1.5 seconds: what is said is what is said in each part, had
    it been a file of its own, and words are told at the seconds of the whole."""
    from luthier.data.media.sounds import cuts

    rows = [json.loads(line) for line in (transcriber / "train.jsonl").read_text().splitlines()][:5]
    samples = [soundfile.read(transcriber / row["audio"])[0] for row in rows]
    quiet = np.random.default_rng(0).normal(0, 0.01, 4800)
    whole = np.concatenate([part for one in samples for part in (one, quiet)]).astype(np.float32)
    soundfile.write(transcriber / "long.wav", whole, 16000, subtype="FLOAT")
    run = luthier.load(transcriber / "run", ["transcribe.window=1.5", "transcribe.words=true"])
    (answer,) = run.predict([str(transcriber / "long.wav")])
    places = cuts(whole, 16000, 1.5)
    assert len(places) > 1
    each = []
    for at, (start, stop) in enumerate(places):
        soundfile.write(transcriber / f"part{at}.wav", whole[start:stop], 16000, subtype="FLOAT")
        each.append(str(transcriber / f"part{at}.wav"))
    parts = run.predict(each)
    assert answer["text"] == " ".join(part["text"] for part in parts if part["text"])
    told = [
        round(word["start"] + start / 16000, 3)
        for part, (start, _) in zip(parts, places, strict=True)
        for word in part["words"]
    ]
    assert [word["start"] for word in answer["words"]] == pytest.approx(told, abs=2e-3)
    assert told


def test_changed_sounds_are_the_same_however_a_run_is_cut(tmp_path: Path) -> None:
    """Speeds and masks: equal weights in whole batches, in small micro-batches, and where a run goes on after a stop;
    other ones without them."""
    model = tiny.save_sound_model("wav2vec2-bert", tmp_path / "model", initializer_range=0.02)
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", spoken(tmp_path, 12))
    base = {
        "task": "transcribe", "model": model, "data": {"train": data, "eval": data, "on_leak": "drop"},
        "method": "full", "steps": 4, "batch_size": 6, "save_every": 2, "out": str(tmp_path), "final": "last",
    }  # fmt: skip
    base["data"] = {"train": data, "eval": 0.0}
    changed = {"augment": {"speeds": [0.9, 1.1], "time_masks": 1, "band_masks": 1}}
    found = {
        name: load_file(luthier.tune(**base, **keys, name=name).folder / "final/model.safetensors")
        for name, keys in (("whole", changed), ("small", changed | {"micro_tokens": 40}), ("plain", {}))
    }
    for key, tensor in found["whole"].items():
        assert tensor.allclose(found["small"][key], atol=2e-5), key
    assert not all(tensor.allclose(found["plain"][key], atol=1e-4) for key, tensor in found["whole"].items())

    # What it was after half of its steps, as if it had been killed then: the same command goes on, to the same bits.
    run = tmp_path / "whole"
    (last,) = (run / "checkpoints").glob("*4")
    for gone in (last, run / "final"):
        shutil.rmtree(gone)
    (run / "result.json").unlink()
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "running"}))
    again = load_file(luthier.tune(**base, **changed, name="whole").folder / "final/model.safetensors")
    assert "resumed after step 2" in (run / "metrics.jsonl").read_text()
    assert all(tensor.equal(again[key]) for key, tensor in found["whole"].items())


def test_sounds_and_texts_find_each_other(tmp_path: Path, tiny_folder: Callable[..., str]) -> None:
    """Three tones with three words, by two towers that never met; classes by name; what does not fit is refused."""
    towers = {
        "audio": tiny.save_sound_model("wav2vec2-bert", tmp_path / "audio"), "text": tiny_folder("bert"),
        "fuse": "similarity",
    }  # fmt: skip
    names, rows = {"a": "red", "b": "green", "c": "blue"}, []
    for i in range(36):
        letter = "abc"[i % 3]
        tiny.save_tone(tmp_path / f"s/{i}.wav", [PITCHES[letter]], seconds=0.2 + 0.05 * (i % 4), seed=i)
        rows.append({"audio": f"s/{i}.wav", "text": f"the {names[letter]} {tiny.WORDS[3 + i % 8]}"})
    data = {name: tiny.write_jsonl(tmp_path / f"{name}.jsonl", some)
            for name, some in (("train", rows[6:]), ("eval", rows[:6]))}  # fmt: skip
    keys = {"task": "match", "model": towers, "data": data, "method": "full", "learning_rate": 1e-2, "steps": 60,
            "batch_size": 30, "eval_every": 60, "final": "last", "warmup": 0, "out": str(tmp_path)}  # fmt: skip
    run = luthier.tune(**keys, name="run")
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    again = luthier.load(run.folder)
    found = again.evaluate(data["eval"])["metrics"]
    assert found["mean_recall"]["value"] == run.result["after"]["mean_recall"]["value"]
    texts = [f"the {name} cat" for name in names.values()]
    answers = again.predict([{"audio": str(tmp_path / f"s/{i}.wav"), "texts": texts} for i in range(3)])
    assert sum(a["label"] == texts[i] for i, a in enumerate(answers)) >= 2
    vectors = again.predict([str(tmp_path / "s/0.wav"), "the red cat"])
    assert len(vectors[0]["vector"]) == len(vectors[1]["vector"])

    (tmp_path / "s/notes.txt").write_text("\n".join(texts))
    indexed, spoken, heard = session(
        tmp_path, "index run s", "search run s/0.wav --find texts -k 3 --json",
        "search run red -k 3 --page found.html --json",
    )  # fmt: skip
    assert "36 pictures, 3 texts" in indexed.out, indexed.err
    assert spoken.json[0]["text"] == answers[0]["label"]
    assert all(entry["audio"].endswith(".wav") for entry in heard.json)
    assert (tmp_path / "found.html").read_text().count("<audio") == 3

    seen = {"image": tiny.save_image_model("vit", tmp_path / "vit"), "text": tiny_folder("bert"), "fuse": "similarity"}
    for model, code in ((seen, "model.no-sounds"), (towers | {"fuse": "projection"}, "recipe.fuse"),
                        (towers | {"audio": tiny_folder("bert")}, "model.no-sounds")):  # fmt: skip
        findings, _ = _checked(keys | {"model": model})
        assert code in {finding.code for finding in findings if finding.severity == "error"}, code


def _checked(keys: dict[str, Any]) -> tuple[list[Any], Any]:
    try:
        return luthier.check(**keys)
    except Refused as refused:
        return refused.findings, None


@pytest.mark.parametrize(("name", "method"), [("yes_no", "full"), ("read_speech", "full"), ("spoken_digits", "full")])
def test_real_recordings(name: str, method: str, shared: Callable[[str], Path], tmp_path: Path) -> None:
    """FLAC at 8 and 16 kHz and WAV, sentences of up to ten seconds: read, resampled where they must be, and learned."""
    folder = shared(f"data/{name}")
    lines = (folder / "manifest.jsonl").read_text().splitlines()[:: 30 if name == "spoken_digits" else 4]
    rows = [json.loads(line) for line in lines]
    data = tiny.write_jsonl(
        tmp_path / "rows.jsonl", [{"audio": str(folder / row["audio"]), "text": row["text"]} for row in rows]
    )
    model = {"name": "starter:ears", "init": "random"}
    run = luthier.tune(
        task="transcribe", model=model, data={"train": data, "eval": 0.0}, method=method, steps=3, batch_size=8,
        learning_rate=1e-3, warmup=0, out=str(tmp_path),
    )  # fmt: skip
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    told = {finding["code"]: finding["what"] for finding in run.result["findings"]}
    assert ("data.sounds-converted" in told) == (name != "read_speech")
    assert run.result["data"]["train"]["used"] == len(rows)
