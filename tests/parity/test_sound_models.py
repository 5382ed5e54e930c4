"""Models that hear: transformers' own features, logits and losses, alone or beside longer sounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
import transformers

import tiny
from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.hiding import masks_of
from luthier.models.audio.sounds import Clip
from luthier.models.load import load
from luthier.objectives import classification, ctc
from luthier.types import Batch, Features

LABELS = {"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
LETTERS = {"letters": list("abcd")}
WRITE = ("wav2vec2", "wav2vec2-group", "hubert", "wavlm", "wav2vec2-bert", "parakeet")
CLASSIFY = ("wav2vec2", "wav2vec2-group", "hubert", "wavlm", "wav2vec2-bert", "ast", "whisper")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of 0.8, 0.3 and 0.55 seconds."""
    folder = tmp_path_factory.mktemp("sounds")
    pitches = ([300.0, 900.0, 1500.0], [700.0], [500.0, 1100.0])
    return [tiny.save_tone(folder / f"{at}.wav", some, seed=at) for at, some in enumerate(pitches)]


def opened(kind: str, needs: str, config: dict, folder: Path) -> HearingBackbone:
    backbone = load(kind, tiny.save_sound_model(kind, folder), needs, config=config)
    backbone.model.eval()
    return backbone


def alone(backbone: HearingBackbone, path: Path) -> torch.Tensor:
    """One sound as transformers' own feature extractor makes it, without padding that a mask would hide."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(backbone.path, trust_remote_code=False)
    samples, rate = soundfile.read(path, dtype="float32")
    made = extractor(samples, sampling_rate=rate, return_tensors="pt")
    features = made[backbone.sounds.name]
    fixed = backbone.sounds.capacity is not None
    return features if fixed or "attention_mask" not in made else features[:, : int(made["attention_mask"].sum())]


@pytest.mark.parametrize("kind", WRITE)
def test_ctc_is_transformers_own(kind: str, sounds: list[Path], tmp_path: Path) -> None:
    """All sounds in one batch, against each by itself through the whole model with its labels: the loss is the sum."""
    backbone = opened(kind, "frame_logits", LETTERS, tmp_path)
    objective = ctc.Objective(ctc.Options(), backbone, None)
    labels = [[3, 4, 4], [5], [6, 2, 3]]
    rows: list[Features] = [
        backbone.sound_row(Clip(one), None) | {"row": i, "labels": labels[i], "weight": 1.0}
        for i, one in enumerate(sounds)
    ]
    batch = objective.collate(rows)
    with torch.no_grad():
        terms, hidden_TD = objective.loss(backbone, batch), backbone.hidden(batch)
        logits_KLV = backbone.frame_logits(hidden_TD.unflatten(0, (3, -1)))
    backbone.model.config.ctc_loss_reduction = "sum"
    total = 0.0
    for k, path in enumerate(sounds):
        features = alone(backbone, path)
        mask = (
            {"attention_mask": torch.ones(features.shape[:2]).long()} if kind == "parakeet" else {}
        )  # it asks for one
        with torch.no_grad():
            theirs = backbone.model(features, labels=torch.tensor([labels[k]]), **mask)
        frames = len(rows[k]["input_ids"])
        assert theirs.logits.shape[1] == frames
        torch.testing.assert_close(logits_KLV[k, :frames], theirs.logits[0], atol=2e-5, rtol=1e-4)
        total += float(theirs.loss)
    assert float(terms.total) == pytest.approx(total, rel=1e-5)
    assert terms.count == 7
    assert backbone.apart == (kind == "wav2vec2-group")


@pytest.mark.parametrize("kind", CLASSIFY)
def test_classes_are_transformers_own(kind: str, sounds: list[Path], tmp_path: Path) -> None:
    backbone = opened(kind, "sequence_logits", LABELS, tmp_path)
    objective = classification.Objective(classification.Options(), backbone, None)
    rows: list[Features] = [
        backbone.sound_row(Clip(one), None) | {"row": i, "target": i, "weight": 1.0} for i, one in enumerate(sounds)
    ]
    batch = objective.collate(rows)
    with torch.no_grad():
        ours, terms = torch.tensor(objective.outputs(backbone, batch)), objective.loss(backbone, batch)
        theirs = [backbone.model(alone(backbone, path), labels=torch.tensor([k])) for k, path in enumerate(sounds)]
    torch.testing.assert_close(ours, torch.cat([one.logits for one in theirs]), atol=2e-5, rtol=1e-4)
    assert float(terms.total) == pytest.approx(sum(float(one.loss) for one in theirs), rel=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-bert", "whisper"])
def test_masks_hide_what_they_say(kind: str, sounds: list[Path], tmp_path: Path) -> None:
    """Bare samples: the frames that transformers' own ``mask_time_indices`` hides. Spectrograms: steps and bands at
    the mean, in both of the frames that lie beside each other in a step (Wav2Vec2-BERT), and time last (Whisper)."""
    from luthier.data.media.augment_sound import Change

    needs = "sequence_logits" if kind == "whisper" else "frame_logits"
    backbone = opened(kind, needs, LABELS if kind == "whisper" else LETTERS, tmp_path)
    clip = Clip(sounds[0])
    row = backbone.sound_row(clip, None)
    change = Change(1.0, ((0.25, 0.5),), ((0.5, 0.75),))
    masks = masks_of(backbone.sounds, change, len(row["input_ids"]), clip)
    made = backbone.lay_out([row | {"masks": masks}])
    if kind == "wav2vec2":
        frames = len(row["input_ids"])
        assert made["mask_frames"][0].nonzero()[:, 0].tolist() == list(range(round(frames / 4), round(frames / 2)))
        torch.manual_seed(0)
        batch = backbone.probe([0])
        batch.tensors |= made
        backbone.model.config.apply_spec_augment = True
        with torch.no_grad():
            theirs = backbone.trunk(made["features"], mask_time_indices=made["mask_frames"]).last_hidden_state
            backbone.model.config.apply_spec_augment = False
            torch.testing.assert_close(backbone.hidden(batch), theirs[0])
            assert not torch.allclose(theirs, backbone.trunk(made["features"]).last_hidden_state)
        return
    whole, hidden = backbone.sounds.features(row["sounds"][0]), made["features"][0]
    if kind == "whisper":
        whole, hidden = whole.T, hidden.T
    steps = masks["steps"][0]
    changed = (hidden != whole).float()
    assert changed[steps[0] : steps[1]].mean() > 0.99
    low, high = masks["bands"][0]
    bands = whole.shape[1] if kind == "whisper" else whole.shape[1] // 2
    assert (low, high) == (bands // 2, bands * 3 // 4)
    inside = torch.zeros(whole.shape[1], dtype=torch.bool)
    for first in range(0, whole.shape[1], bands):
        inside[first + low : first + high] = True
    rest = torch.ones(len(whole), dtype=torch.bool)
    rest[steps[0] : steps[1]] = False
    assert changed[rest][:, inside].mean() > 0.99
    assert changed[rest][:, ~inside].sum() == 0


def test_time_is_hidden_only_where_there_is_sound(sounds: list[Path], tmp_path: Path) -> None:
    """Of the 0.3 s of a second that Whisper always hears."""
    from luthier.data.media.augment_sound import Change

    backbone = opened("whisper", "sequence_logits", LABELS, tmp_path)
    masks = masks_of(backbone.sounds, Change(1.0, ((0.0, 1.0),), ()), 50, Clip(sounds[1]))
    samples = len(soundfile.read(sounds[1])[0])
    assert masks["steps"] == [(0, 100 * samples // 16000)]


def test_whisper_is_transformers_own(sounds: list[Path], tmp_path: Path) -> None:
    """The loss of transcripts with language, task and no times, as transformers takes it of its own labels; hidden
    states are computed at the labels alone, and a batch of several is each by itself."""
    from luthier.models.audio.speech import SpeechBackbone
    from luthier.objectives import next_token

    backbone = opened("whisper", "token_logits", {}, tmp_path)
    assert isinstance(backbone, SpeechBackbone)
    backbone.speak("german")
    tokenizer = transformers.WhisperTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    tokenizer.set_prefix_tokens(language="german", task="transcribe", predict_timestamps=False)
    objective = next_token.Objective(next_token.Options(), backbone, None)
    texts = ["red cat", "a", "small old house"]
    rows: list[Features] = [
        backbone.sound_row(Clip(one), None) | {"row": i, "target_ids": backbone.transcript_ids(texts[i]), "weight": 1.0}
        for i, one in enumerate(sounds)
    ]
    names = ["<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert tokenizer.convert_ids_to_tokens(rows[1]["target_ids"]) == [*names, "a", "<|endoftext|>"]
    total = count = 0.0
    with torch.no_grad():
        terms = objective.loss(backbone, objective.collate(rows))
        for text, path in zip(texts, sounds, strict=True):
            labels = torch.tensor([tokenizer(text)["input_ids"][1:]])  # its start token is put back by the shift
            theirs = backbone.model(alone(backbone, path), labels=labels)
            total, count = total + float(theirs.loss) * labels.shape[1], count + labels.shape[1]
    assert float(terms.total) == pytest.approx(total, rel=1e-5)
    assert terms.count == count


def test_whisper_writes_what_transformers_writes(sounds: list[Path], tmp_path: Path) -> None:
    """Greedily, after the same opening: start, language, task, no times."""
    from luthier.models.audio.speech import SpeechBackbone

    backbone = opened("whisper", "token_logits", {}, tmp_path)
    assert isinstance(backbone, SpeechBackbone)
    backbone.speak("en")
    rows = [backbone.sound_row(Clip(one), None) for one in sounds]
    ours = backbone.write(rows, max_new_tokens=6, num_beams=1)
    opening = torch.tensor([backbone.tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    )])  # fmt: skip
    for path, written in zip(sounds, ours, strict=True):
        ids = opening
        with torch.no_grad():
            for _ in range(6):
                logits = backbone.model(alone(backbone, path), decoder_input_ids=ids).logits[:, -1]
                ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        theirs = ids[0, 4:].tolist()
        assert written == theirs[: theirs.index(256) if 256 in theirs else 6]


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wav2vec2-bert", "ast"])
def test_a_sound_has_one_vector_whatever_is_beside_it(kind: str, sounds: list[Path], tmp_path: Path) -> None:
    """Two towers of one's own: the vector of each sound is the projected mean of what the tower, as transformers opens
    it, makes of that sound alone; the loss is InfoNCE both ways, written out."""
    from luthier.engine.accumulate import loss_of
    from luthier.models.joined.compose import compose
    from luthier.objectives import image_text

    audio, text = tiny.save_sound_model(kind, tmp_path / "audio"), tiny.save("bert", tmp_path / "text")
    compose(audio, text, "similarity", {"width": 8}, tmp_path / "both", listens=True)
    backbone = load("both", str(tmp_path / "both"), "vectors")
    backbone.model.eval()
    rows: list[Features] = [
        backbone.pair_row([one], [word], None)
        | {"row": i, "keys": [i, 10 + i], "own": 1, "weight": 1.0, "classed": False}
        for i, (one, word) in enumerate(zip(sounds, ["red", "green cat", "blue"], strict=True))
    ]
    batch = Batch(backbone.lay_out(rows), [0, 1, 2])
    tower = transformers.AutoModel.from_pretrained(audio, trust_remote_code=False).eval()
    with torch.no_grad():
        ours, texts = backbone.picture_vectors(batch), backbone.text_vectors(batch)
        for k, path in enumerate(sounds):
            theirs = tower(alone(backbone, path)).last_hidden_state.mean(1)
            torch.testing.assert_close(ours[k], backbone.projections["image"](theirs)[0], atol=2e-5, rtol=1e-4)
        logits = torch.nn.functional.normalize(ours, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T / 0.07
        own = torch.arange(3)
        both = [torch.nn.functional.cross_entropy(side, own, reduction="sum") for side in (logits, logits.T)]
        terms, _ = loss_of(backbone, image_text.Objective(image_text.Options(), backbone, None), rows, "fp32")
    assert float(terms.total) == pytest.approx(float(sum(both)) / 2, rel=1e-4)
