"""A sound as it is stored to what a model hears: rates, channels, kinds of files, what is refused and what changed."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers

import tiny
from luthier.data.media.augment_sound import draw, places
from luthier.data.media.sounds import BadSound, cuts, decode, faster, resample
from luthier.data.media.spoken import words
from luthier.models.audio.sounds import Clip, Sounds
from luthier.types import Waveform

RATE = 16000


def tone(rate: int, seconds: float = 1.0, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_of_four_rates_is_the_same_tone(rate: int) -> None:
    """The sine of the same pitch and phase, as its formula gives it at the rate that is wanted: within -60 dB, apart
    from the edges, where the sinc reaches past the sound."""
    found = resample(tone(rate), rate, RATE)
    assert len(found) == RATE
    inside = slice(RATE // 10, -RATE // 10)
    np.testing.assert_allclose(found[inside], tone(RATE)[inside], atol=5e-4)


@pytest.mark.parametrize(
    "extractor", [transformers.Wav2Vec2FeatureExtractor(), transformers.WhisperFeatureExtractor(chunk_length=1)]
)
def test_a_tone_of_four_rates_gives_the_same_features(extractor: object, tmp_path: Path) -> None:
    found = []
    sounds = Sounds(extractor)
    for rate in (8000, 16000, 44100, 48000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, tone(rate), rate, subtype="FLOAT")
        found.append(sounds.features(sounds.heard(Clip(path)).key).numpy())
    inside = slice(RATE // 10, -RATE // 10) if found[0].ndim == 1 else (slice(10, 12), slice(10, 90))  # its own bands
    for other in found:
        np.testing.assert_allclose(other[inside], found[1][inside], atol=2e-2)
    assert sounds.converted == {"8,000 Hz: to 16,000": 1, "44,100 Hz: to 16,000": 1, "48,000 Hz: to 16,000": 1}


def test_what_a_lower_rate_cannot_hold_is_left_out() -> None:
    """A tone of 6 kHz is over the half of 8 kHz: nothing of it may come back as another tone (aliasing)."""
    found = resample(tone(RATE, pitch=6000.0), RATE, 8000)
    assert np.abs(found[800:-800]).max() < 1e-4


@pytest.mark.parametrize(("kind", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", None)])
def test_files_of_each_kind(kind: str, subtype: str | None, tmp_path: Path) -> None:
    path = tmp_path / f"sound.{kind}"
    soundfile.write(path, tone(RATE), RATE, subtype=subtype)
    for one in (path, path.read_bytes()):
        samples, rate, notes = decode(one)
        assert (rate, notes) == (RATE, [])
        middle = samples[4000:12000] if kind != "mp3" else samples[5000:13000]
        assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.5 / math.sqrt(2), rel=0.02)


def test_channels_become_their_mean() -> None:
    """Left 0.6, right 0.2 times the same wave: 0.4."""
    wave = tone(RATE) * 2
    both = np.stack([0.6 * wave, 0.2 * wave], axis=1).astype("<f4")
    samples, _, notes = decode(Waveform(both.tobytes(), RATE, channels=2))
    np.testing.assert_allclose(samples, 0.4 * wave, atol=1e-6)
    assert notes == ["2 channels: their mean"]


def _wav(samples: np.ndarray, subtype: str = "FLOAT") -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, RATE, subtype=subtype, format="WAV")
    return held.getvalue()


def test_what_can_not_be_used_says_why(tmp_path: Path) -> None:
    broken = tone(RATE)
    broken[100] = np.nan
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "half.flac").write_bytes(b"fLaC" + b"\0" * 40)
    (tmp_path / "none.wav").write_bytes(b"")
    cases = [
        (np.zeros(RATE, np.float32), "is silent"),
        (np.full(RATE, 0.5, np.float32), "is silent"),  # a constant is no sound
        (np.zeros(0, np.float32), "is empty: it has 0 samples"),
        (broken, "1 samples that are not finite"),
    ]
    given = [(_wav(samples), what) for samples, what in cases]
    given += [
        (tmp_path / "text.wav", "is no sound that can be read: it begins with 'no sound at all'"),
        (tmp_path / "half.flac", "is damaged"),
        (tmp_path / "none.wav", "is an empty file"),
        (tmp_path / "gone.wav", "there is no such file"),
        (tmp_path, "is a folder"),
        (Waveform(tone(RATE).tobytes(), 0), "has no sample rate"),
    ]
    for one, what in given:
        with pytest.raises(BadSound) as bad:
            decode(one)
        assert what in bad.value.what
        assert bad.value.mend


def test_clipped_is_told_and_a_loud_wave_is_not() -> None:
    assert decode(_wav(np.clip(3 * tone(RATE), -1, 1)))[2] == ["clipped"]
    assert decode(_wav(2 * tone(RATE)))[2] == []  # full scale, with its tops


def test_faster_is_shorter_and_higher() -> None:
    """440 Hz at 1.1 times the speed: 484 Hz, in 1/1.1 of the time."""
    found = faster(tone(RATE), 1.1, RATE)
    assert len(found) == math.ceil(RATE / 1.1)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert spectrum.argmax() * RATE / len(found) == pytest.approx(484, abs=1.5)


def test_long_sounds_are_cut_where_it_is_quiet() -> None:
    """Ten seconds of noise with pauses at 3.6 and 7.0 s, in parts of at most 4 s: the parts end in the pauses."""
    samples = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32)
    for pause in (3.6, 7.0):
        samples[int(pause * RATE) : int((pause + 0.1) * RATE)] = 0
    parts = cuts(samples, RATE, 4.0)
    assert [part[0] for part in parts[1:]] == [part[1] for part in parts[:-1]]
    assert (parts[0][0], parts[-1][1]) == (0, len(samples))
    for stop, pause in zip([part[1] for part in parts], (3.6, 7.0), strict=False):
        assert pause <= stop / RATE <= pause + 0.1
    assert max(stop - start for start, stop in parts) <= 4 * RATE


def test_the_same_content_has_one_set_of_features(tmp_path: Path) -> None:
    """Two names of one recording, its bytes and its samples give one key; another speed, or a part, another."""
    sounds = Sounds(transformers.SeamlessM4TFeatureExtractor())
    path = tiny.save_tone(tmp_path / "a.wav", [440.0])
    (tmp_path / "b.wav").write_bytes(path.read_bytes())
    samples, _ = soundfile.read(path, dtype="float32")
    same = [path, tmp_path / "b.wav", path.read_bytes(), Waveform(samples.astype("<f4").tobytes(), RATE)]
    clips = [Clip(one) for one in same]
    sounds.prepare(clips)
    assert len({sounds.heard(clip).key for clip in clips}) == 1
    others = [Clip(path, speed=1.1), Clip(path, part=(0, 3200))]
    assert len({sounds.heard(clip).key for clip in [clips[0], *others]}) == 3
    theirs = transformers.SeamlessM4TFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="pt")
    ours = sounds.features(sounds.heard(clips[0]).key)
    assert ours.equal(theirs["input_features"][0][: len(ours)])
    assert len(ours) == int(theirs["attention_mask"].sum())


def test_a_sound_is_decoded_once_for_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("luthier.models.audio.sounds.decode", lambda one: (asked.append(one), decode(one))[1])
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path, pitch in zip(paths, (440.0, 880.0), strict=True):
        soundfile.write(path, tone(8000, 3.0, pitch), 8000, subtype="FLOAT")
    sounds = Sounds(transformers.Wav2Vec2FeatureExtractor(do_normalize=False))
    for path in paths:
        whole = sounds.samples(path)
        for part in ((0, RATE), (RATE, 2 * RATE), (2 * RATE, 3 * RATE)):
            heard = sounds.heard(Clip(path, part=part))
            np.testing.assert_array_equal(sounds.features(heard.key).numpy(), whole[slice(*part)])
    assert asked == paths
    assert not sounds.converted, "only whole sounds are counted"


def test_changes_are_a_function_of_seed_epoch_and_row() -> None:
    how = {"speeds": [0.9, 1.0, 1.1], "seconds": 1.0, "time_masks": 2, "time_mask": 0.2, "band_masks": 1,
           "band_mask": 0.3}  # fmt: skip
    first = draw(1, 2, 3, **how)
    assert first == draw(1, 2, 3, **how)
    others = [draw(*at, **how) for at in ((0, 2, 3), (1, 3, 3), (1, 2, 4))]
    assert all(other != first for other in others)
    many = [draw(0, epoch, row, **how) for epoch in range(20) for row in range(50)]
    for speed in how["speeds"]:
        assert sum(one.speed == speed for one in many) == pytest.approx(1000 / 3, abs=60)
    widths = [stop - start for one in many for start, stop in one.times if one.speed == 1.0]
    assert 0 <= min(widths) <= max(widths) <= 0.2
    assert np.mean(widths) == pytest.approx(0.1, abs=0.01)  # uniform from 0 to the widest
    assert all(0 <= start <= stop <= 1 for one in many for start, stop in (*one.times, *one.bands))
    assert places(((0.25, 0.5), (0.9, 0.9)), 8) == [(2, 4)]


def test_the_normaliser() -> None:
    assert words("Don’t stop — it's 9:30, “Mr. Smith”!") == "don't stop it's 9 30 mr smith"
    assert words("ﬁne  ÉTÉ\tnaïve") == "fine été naïve"
    assert words("'tis the boys' well-known …") == "tis the boys well known"


def test_telephone_keys_sound_as_they_should() -> None:
    """Key 5 is 770 and 1336 Hz, key 0 is 941 and 1336 (ITU-T Q.23). Of row 1 the spectrum of each key alone has its two
    pitches; rows are the same each time, and are as many as asked for."""
    from luthier.data.files.read import read_rows
    from luthier.data.media.tones import TONES

    assert (TONES["5"], TONES["0"], TONES["1"], TONES["#"]) == ((770, 1336), (941, 1336), (697, 1209), (941, 1477))
    rows, findings = read_rows("tones:keypad:3", base=Path("."))
    assert (len(rows), findings) == (3, [])
    again = read_rows("tones:keypad", base=Path("."))[0]
    assert len(again) == 400
    for (_, row), (_, other) in zip(rows, again, strict=False):
        assert np.array_equal(row["audio"]["array"], other["audio"]["array"])
        assert row["text"] == other["text"]
        samples = row["audio"]["array"]
        spectrum = np.abs(np.fft.rfft(samples))
        pitches = np.fft.rfftfreq(len(samples), 1 / 8000)
        heard = {pitch for pair in TONES.values() for pitch in pair
                 if spectrum[np.abs(pitches - pitch) < 12].max() > 6 * np.median(spectrum[pitches > 300])}  # fmt: skip
        assert heard >= {pitch for digit in row["text"] for pitch in TONES[digit]}
    assert read_rows("tones:bells", base=Path("."))[1][0].code == "data.missing"
