"""Encoders of sounds joined with a decoder: transcripts and conversations. They run, learn, listen, train only what was
chosen and open again the same; frozen towers run once; what is cached changes no answer; the rest is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from battery import assert_judged_the_same, assert_loss_fell, assert_refused, cases
from modalities import JOINED, JOINS
from table import METHODS

import luthier
import tiny
from luthier.types import Refused

APART: dict[str, dict[str, Any]] = {"lora": {"learning_rate": 5e-3}}  # what joins the towers trains at it too
DEFAULT = {("gates", "full"), ("counted", "full"), ("gates", "features: logistic")}
WORDS, STEPS = ("red", "green"), 40
ROLES = {"audio": "frozen", "projector": {"full": {}, "learning_rate": 5e-3}, "text": {"lora": {"rank": 4}}}
HEARD = ("wav2vec2", "wav2vec2-group", "wav2vec2-bert", "whisper", "ast", "parakeet")


def pitched(i: int) -> tuple[str, float]:
    return WORDS[i % 2], (300.0, 1800.0)[i % 2] + 10 * i


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Low and high tones of three lengths, with the word for each; and conversations about one and two of them."""
    made = tmp_path_factory.mktemp("sounds")
    rows, talks = [], []
    for i in range(24):
        word, pitch = pitched(i)
        tiny.save_tone(made / f"s/{i}.wav", [pitch], seconds=0.25 + 0.05 * (i % 3), seed=i)
        rows.append({"audio": f"s/{i}.wav", "text": word})
    for i in range(16):
        first, second = i, (i + 3 + i // 2 % 2) % 24
        turns = [
            {"role": "user", "content": [heard(first), {"type": "text", "text": "the"}]},
            {"role": "assistant", "content": WORDS[first % 2]},
            {"role": "user", "content": [{"type": "text", "text": "and "}, heard(second)]},
            {"role": "assistant", "content": WORDS[second % 2]},
        ]
        talks.append({"messages": turns})
    talks.append({"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "new"}]})
    for name, some in (("transcribe", rows), ("chat", talks)):
        tiny.write_jsonl(made / f"{name}-train.jsonl", some[4:])
        tiny.write_jsonl(made / f"{name}-eval.jsonl", some[:4])
    return made


def heard(i: int, beside: Path = Path()) -> dict[str, Any]:
    return {"type": "audio", "audio": str(beside / f"s/{i}.wav")}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = tmp_path_factory.mktemp("towers")
    return {"text": tiny.save("llama", made / "lm")} | {
        kind: tiny.save_sound_model(kind, made / kind) for kind in HEARD
    }


def recipe(
    task: str, towers: dict[str, str], folder: Path, out: Path, *, ear: str = "wav2vec2", fuse: str = "projection",
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "task": task, "model": {"audio": towers[ear], "text": towers["text"], "fuse": JOINS[fuse]},
        "data": {side: str(folder / f"{task}-{side}.jsonl") for side in ("train", "eval")}, "out": str(out),
        "steps": STEPS, "batch_size": 20, "eval_every": STEPS, "final": "last", "schedule": "constant", "warmup": 0,
        **({"transcribe": {"max_new_tokens": 4}} if task == "transcribe" else {}), **METHODS["full"], **more,
    }  # fmt: skip


def losses_of(run: Any) -> list[float]:
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_a_transcript_is_written_and_opens_again_the_same(
    towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Learned words, at the end of which the run is opened, judged anew, and by transformers' own means: the same
    answers with the cache and without, for sounds of three lengths beside each other and one by one."""
    run = luthier.tune(**recipe("transcribe", towers, folder, tmp_path))
    sounds = [str(folder / f"s/{i}.wav") for i in range(4)]
    assert run.result["after"]["wer"]["value"] == 0
    again = luthier.load(run.folder)
    found = again.evaluate(str(folder / "transcribe-eval.jsonl"))["metrics"]
    for name in ("loss", "wer"):
        assert found[name]["value"] == pytest.approx(run.result["after"][name]["value"], rel=1e-4, abs=1e-5), name
    assert [answer["text"] for answer in again.predict(sounds)] == ["red", "green"] * 2
    assert [again.predict([sound])[0]["text"] for sound in sounds] == ["red", "green"] * 2
    assert [answer["text"] for answer in again.predict(sounds, num_beams=2)] == ["red", "green"] * 2
    backbone = again.predictor.backbone
    from luthier.models.joined.writer import ComposedForCausalLM

    whole = ComposedForCausalLM.from_pretrained(run.folder / "final").eval()
    keys = [backbone.pictures.key(Path(sound)) for sound in sounds]
    ids = torch.tensor([[5, *backbone.places(keys[1]), 6]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given |= {"pixel_values": backbone.pictures.pixels([(keys[1], None)]), "picture_rows": torch.tensor([0])}
    written = [
        whole.generate(**given, max_new_tokens=4, do_sample=False, use_cache=cached).tolist()
        for cached in (True, False)
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize(("fuse", "method"), cases(JOINED.cells, DEFAULT, JOINED.refusal, wanted=False))
def test_each_way_to_join_learns(
    fuse: str, method: str, towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:  # fmt: skip
    keys = recipe("transcribe", towers, folder, tmp_path, fuse=fuse, **METHODS[method] | APART.get(method, {}))
    run = luthier.tune(**keys)
    assert_loss_fell(run, to=0.5)
    assert run.result["after"]["wer"]["value"] <= 0.25
    assert_judged_the_same(run, keys["data"]["eval"], fresh=(fuse, method) not in DEFAULT)


@pytest.mark.parametrize(("fuse", "method"), cases(JOINED.cells, DEFAULT, JOINED.refusal, wanted=True))
def test_a_way_that_is_refused(
    fuse: str, method: str, towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:  # fmt: skip
    keys = recipe("transcribe", towers, folder, tmp_path, fuse=fuse, **METHODS[method])
    assert_refused(keys, JOINED.refusal(fuse, method))


@pytest.mark.parametrize(
    "ear", ["whisper", *(pytest.param(e, marks=pytest.mark.slow) for e in HEARD[1:] if e != "whisper")]
)
def test_each_ear_learns(ear: str, towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    run = luthier.tune(**recipe("transcribe", towers, folder, tmp_path, ear=ear))
    losses = losses_of(run)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3]), losses


def test_whisper_is_heard_as_long_as_the_sound_is(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """Its features are always of one second here, 50 hidden states; 0.35 s, 0.4 s and 0.45 s of sound are 18, 20 and 23
    of these, and by fives 4, 4 and 5 tokens. A longer sound than it hears is an error at its line."""
    keys = recipe("transcribe", towers, folder, tmp_path, ear="whisper")
    _, prepared = luthier.check(**keys)
    backbone = prepared.backbone
    tokens = {row["row"]: row["input_ids"].count(backbone.mark_id) for row in prepared.train.rows}
    assert [tokens[i] for i in range(3)] == [4, 5, 4]  # rows 4, 5 and 6: of 0.4, 0.45 and 0.35 s
    tiny.save_tone(tmp_path / "long.wav", [300.0], seconds=1.5)
    keys["data"] = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"audio": "long.wav", "text": "red"}] * 4)
    findings, _ = luthier.check(**keys)
    told = [finding.what for finding in findings if finding.code == "data.sound"]
    assert told
    assert "is 1.6 s long, and this model hears 1.0 s" in told[0]


def test_frozen_ears_are_heard_once(
    towers: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles: the audio tower stays bit by bit, its states are computed once, and the losses are those of a run that
    computes them anew at each step."""
    from luthier.models.joined.composed import ComposedModel

    keys = recipe("transcribe", towers, folder, tmp_path, method=ROLES)
    calls, seen = [], ComposedModel.seen
    monkeypatch.setattr(ComposedModel, "seen", lambda self, given: calls.append(len(given)) or seen(self, given))
    run = luthier.tune(**keys, name="once")
    once = len(calls)
    monkeypatch.setattr("luthier.runs.training.still_towers", lambda prepared: set())
    anew = luthier.tune(**keys, name="anew")
    assert len(calls) - once >= once + STEPS // 2
    assert losses_of(run) == pytest.approx(losses_of(anew), abs=1e-4)
    assert luthier.load(run.folder).predict([str(folder / "s/1.wav")])[0]["text"] in WORDS


def test_sounds_between_turns(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """Two sounds in two turns of a conversation: each has its places in its order, none is learned or cut; the second
    answer heeds the second sound."""
    keys = recipe("chat", towers, folder, tmp_path, steps=80)
    findings, prepared = luthier.check(**keys)
    assert not [finding for finding in findings if finding.severity == "error"]
    backbone = prepared.backbone
    for row in prepared.train.rows:
        held = row.get("pictures", ())
        at = [place for place, token in enumerate(row["input_ids"]) if token == backbone.mark_id]
        assert len(at) == sum(len(backbone.places(key)) for key in held)
        assert not any(row["supervised"][place] for place in at)
    run = luthier.tune(**keys)
    asked = [
        {"messages": [
            {"role": "user", "content": [heard(a, folder), {"type": "text", "text": "the"}]},
            {"role": "assistant", "content": WORDS[a % 2]},
            {"role": "user", "content": [{"type": "text", "text": "and "}, heard(b, folder)]},
        ]}
        for a, b in ((4, 8), (5, 9), (6, 9), (7, 10))
    ]  # fmt: skip
    assert [answer["text"] for answer in run.predict(asked)] == ["red", "green", "green", "red"]
    (one,) = run.predict([{"audio": str(folder / "s/3.wav"), "prompt": "the"}])
    assert one["text"] == "green"
    findings, _ = luthier.check(**keys | {"max_length": 24, "overlong": "truncate"})
    assert "data.picture-room" in {finding.code for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize("fuse", ["projection", "gates"])
def test_a_model_that_does_not_listen_is_refused(
    fuse: str, towers: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from luthier.models.joined.composed import ComposedModel

    pictures = ComposedModel.pictures
    monkeypatch.setattr(ComposedModel, "pictures", lambda self, given: 0 * pictures(self, given))
    findings, _ = luthier.check(**recipe("transcribe", towers, folder, tmp_path, fuse=fuse))
    (blind,) = [finding for finding in findings if finding.code == "model.image-blind"]
    assert "sounds change places" in blind.what


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"method": "features"}, "method.combination", ""),
        ({"task": "classify"}, "model.no-sounds", "join"),
        ({"fuse": "concatenation"}, "recipe.combination", ""),
        ({"augment": {"time_masks": 1}}, "recipe.combination", "bare samples"),
        ({"augment": {"speeds": [0.5, 1.0]}, "max_length": 10}, "data.picture-room", "at 0.5 times the speed"),
        ({"fuse": {"projection": {"pool": 2, "tokens": 3}}}, "recipe.value", "pool"),
        ({"text": "encoder"}, "recipe.fuse", "encoder"),
    ],
)  # fmt: skip
def test_what_is_refused(
    change: dict[str, Any], code: str, said: str, towers: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    keys = recipe("transcribe", towers, folder, tmp_path)
    if "task" in change:
        rows = [{"audio": str(folder / f"s/{i}.wav"), "label": WORDS[i % 2]} for i in range(6)]
        keys |= {"data": tiny.write_jsonl(tmp_path / "rows.jsonl", rows)}
        del keys["transcribe"]
    model = {key: change[key] for key in ("fuse",) if key in change}
    if "text" in change:
        model["text"] = tiny.save("bert", tmp_path / "bert")
    keys |= {"model": keys["model"] | model} | {key: change[key] for key in change if key not in ("fuse", "text")}
    try:
        findings, _ = luthier.check(**keys)
    except Refused as refused:
        findings = refused.findings
    errors = [finding for finding in findings if finding.severity == "error"]
    assert code in {finding.code for finding in errors}, errors
    assert any(said in finding.what for finding in errors if finding.code == code), errors


def test_pictures_and_sounds_are_not_mixed_up(towers: dict[str, str], folder: Path, tmp_path: Path) -> None:
    keys = recipe("chat", towers, folder, tmp_path)
    tiny.save_picture(tmp_path / "a.png", "red")
    look = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "red"}]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"messages": look}] * 4)
    findings, _ = luthier.check(**keys | {"data": data})
    assert "model.no-pictures" in {finding.code for finding in findings if finding.severity == "error"}
    findings, _ = luthier.check(**keys | {"model": towers["text"]})
    assert "model.no-sounds" in {finding.code for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize(
    ("kind", "task", "said"), [("clap", "match", "similarity"), ("qwen2_audio", "chat", "projection")]
)
def test_pretrained_models_of_both_are_refused(kind: str, task: str, said: str, folder: Path, tmp_path: Path) -> None:
    """By what their configs have; the way round is told."""
    import transformers

    tokenizer = tiny.tokenizer(encoder=False)
    torch.manual_seed(0)
    if kind == "clap":
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        ear = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2]}
        ear |= {"window_size": 4, "spec_size": 64, "num_mel_bins": 16}
        config: Any = transformers.ClapConfig(text_config=text, audio_config=ear, projection_dim=16)
        transformers.ClapModel(config).save_pretrained(tmp_path / kind)
    else:
        text = {"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text |= {"num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": len(tokenizer)}
        ear = {"model_type": "qwen2_audio_encoder", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2}
        config = transformers.Qwen2AudioConfig(audio_config=ear | {"encoder_ffn_dim": 16}, text_config=text)
        transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    rows = [{"audio": str(folder / f"s/{i}.wav"), "text": WORDS[i % 2]} for i in range(6)]
    if task == "chat":
        rows = [{"messages": [{"role": "user", "content": [heard(i, folder)]},
                              {"role": "assistant", "content": WORDS[i % 2]}]} for i in range(6)]  # fmt: skip
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    findings, _ = luthier.check(task=task, model=str(tmp_path / kind), data=data, method="lora", out=str(tmp_path))
    (found,) = [finding for finding in findings if finding.severity == "error"]
    assert found.code == "model.no-sounds"
    assert f"fuse: {said}" in found.mend
