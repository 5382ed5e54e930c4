"""Write down what is said: letter by letter from the frames of an encoder (CTC), or token by token by a decoder, its
own (Whisper) or a language model that it is joined with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from luthier.data.media.sounds import BadSound
from luthier.data.media.spoken import NORMALIZERS
from luthier.evaluate import language, speech
from luthier.evaluate.ctc import least_frames
from luthier.evaluate.generate import generate, terminators
from luthier.evaluate.intervals import Metrics
from luthier.models.audio.ears import objective_of, writes_by
from luthier.models.audio.hearing import HearingBackbone
from luthier.models.audio.speech import SpeechBackbone
from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.options import Options as Section
from luthier.tasks.common import Ask, Encoder
from luthier.tasks.letters import Heard, Letters, parts
from luthier.tasks.shown import shown_source
from luthier.tasks.sounds import bad_sound, read_sound, sound_of, told_sounds
from luthier.types import INLINE, Example, Features, Finding, Refused

DEFAULTS = {"batch_size": 16, "overlong": "error", "epochs": 10.0}
SCORED = 200  # rows that are written token by token and scored: writing takes far longer than reading


class Options(Section):
    normalize: Literal["words", "none"] = Field(
        default="words",
        description="what CTC learns, and both sides of the error rates: small letters without signs, or as is",
    )
    language: str | None = Field(
        default=None, description="of the transcripts, where a model that writes token by token marks it (Whisper)"
    )
    num_beams: int = Field(default=1, gt=0, description="of the search for an answer; 1: the best path, or greedy")
    max_new_tokens: int = Field(default=225, gt=0, description="the longest answer, token by token")
    window: float = Field(
        default=20.0, gt=1, description="seconds; longer sounds are answered in parts that end in pauses"
    )
    prompt: str = Field(default="", description="what a language model is asked after the sound")
    separator: str = Field(default="\n", description="between that and the transcript")
    words: bool = Field(default=False, description="answers tell when each word is said (CTC)")


class Task:
    formats = ("audio-text",)
    writes_from_source = True
    splits = False
    sample_options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()

    def __init__(self, options: Options):
        self.options = options
        self.said = NORMALIZERS[options.normalize]
        self.letters: Letters | None = None
        self.known: list[str] = []
        self.by, self.limit = "ctc", 0
        self.saved: dict[str, Any] | None = None

    def meet(self, path: str) -> None:
        self.by = writes_by(path)

    @property
    def metric(self) -> str:
        return "wer" if self.by == "ctc" else "loss"

    @property
    def metrics(self) -> Mapping[str, bool]:
        return {"loss": False, **speech.METRICS} if self.by == "ctc" else language.METRICS

    def objective(self) -> str:
        return self.by

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        return list(examples)

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """The letters of the training transcripts, for a model that has none of its own."""
        findings = []
        if not speech.available():
            what, mend = "error rates are measured with jiwer, which is not installed", 'pip install "luthier[speech]"'
            return [Finding("data.needs-extra", "task", what, mend)]
        self.known = sorted({letter for example in train for letter in "".join(self._told(example))})
        for example in [*train, *evaluation]:
            if not all(self._told(example)):
                what = f"nothing of this transcript is left by `normalize: {self.options.normalize}`"
                mend = "give it words, or set `transcribe.normalize: none`"
                findings.append(Finding("data.empty-target", f"{example.source}:text", what, mend))
        return findings

    def _told(self, example: Example) -> list[str]:
        return [self.said(text) for text in example.targets or []]

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        return []

    def config(self) -> dict[str, Any]:
        return {"letters": self.known} if self.saved is None else self.saved

    def from_config(self, config: Any) -> None:
        self.by = objective_of(config)
        self.saved = {} if self.by != "ctc" else {"vocab_size": config.vocab_size, "pad_token_id": config.pad_token_id}

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        if isinstance(backbone, MultimodalBackbone):
            return self._joined(backbone, limit)
        if isinstance(backbone, SpeechBackbone):
            return self._tokens(backbone)
        assert isinstance(backbone, HearingBackbone)
        letters = self.letters = Letters(backbone)
        self.saved = {"vocab_size": len(backbone.tokenizer), "pad_token_id": backbone.blank_id}

        def encode(example: Example) -> list[Features]:
            row = read_sound(backbone, example, None)
            told = self._told(example)
            labels = letters.of(told[0]) if told else []
            frames, needed = len(row["input_ids"]), least_frames(labels)
            if frames < needed:
                what = f"{len(labels)} letters need {needed} frames, and the model makes {frames} of this sound"
                mend = "leave the row out, or choose a model with more frames a second"
                raise Refused(Finding("data.ctc-infeasible", f"{example.source}:audio", what, mend, "no path says it"))
            return [row | {"labels": labels, "least": needed, "references": told, "weight": example.weight}]

        return encode

    def _tokens(self, backbone: SpeechBackbone) -> Encoder:
        """Rows of a model with a decoder: a transcript as it is written, with what its tokenizer begins it with."""
        self.saved = {}
        backbone.speak(self.options.language)

        def encode(example: Example) -> list[Features]:
            row = read_sound(backbone, example, None)
            ids = backbone.transcript_ids((example.targets or [""])[0])
            row |= {"target_ids": ids, "turn_ends": [len(ids) - 1], "full_length": len(ids)}
            return [row | {"weight": example.weight}]

        return encode

    def _joined(self, backbone: MultimodalBackbone, limit: int) -> Encoder:
        """Rows of a language model that an encoder of sounds is joined with: the sound, what is asked, a transcript."""
        self.saved, self.limit = {}, limit

        def encode(example: Example) -> list[Features]:
            row = self._asked(backbone, example, next(iter(example.targets or []), None))
            return [row | {"weight": example.weight}]

        return encode

    def _asked(self, backbone: MultimodalBackbone, example: Example, target: str | None) -> Features:
        if not example.sounds:
            what = "this row has no sound"
            raise Refused(Finding("data.no-sound", str(example.source), what, "name one in a column `audio`"))
        options = self.options
        return shown_source(backbone, example, options.prompt, options.separator, target, self.limit)

    def _text(self, out: dict[str, Any]) -> str:
        assert self.letters is not None
        return self.letters.text(out["ids"])

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]:
        if self.by != "ctc":
            return language.plain(outputs)
        return speech.plain([self.said(self._text(out)) for out in outputs], [row["references"] for row in rows])

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics:
        if self.by != "ctc":
            return language.with_intervals(outputs)
        written = [self._text(out) for out in outputs]
        return self._rates(written, [row["references"] for row in rows])

    def _rates(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
        found = speech.with_intervals([self.said(text) for text in written], references)
        return {name: told | {"normalizer": self.options.normalize} for name, told in found.items()}

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """Error rates of what is written: token by token, or by a search over beams where that is asked for."""
        examples = [example for example in examples if example.targets]
        examples = examples if self.by == "ctc" else examples[:SCORED]
        if not examples or (self.by == "ctc" and self.options.num_beams == 1):
            return {}
        found = self._rates([a["text"] for a in self.answer(ask, examples)], [self._told(e) for e in examples])
        return {f"{name}_beams": value for name, value in found.items()} if self.by == "ctc" else found

    def parse(self, given: Any) -> Example:
        """A sound's path, or a row with one; with a ``text`` beside it, that is laid over it in time."""
        text = given.get("text") if isinstance(given, dict) else None
        return Example(INLINE, sounds=sound_of(given), targets=[text] if text else None)

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]:
        """What is said in each; of one that came with its transcript, when each word of it is. Options: num_beams,
        max_new_tokens, words."""
        backbone, settings = ask.backbone, self.options.model_dump() | options
        if isinstance(backbone, MultimodalBackbone):
            return self._told_by(backbone, examples, settings)
        assert isinstance(backbone, HearingBackbone)
        try:
            return (
                self._written(backbone, examples, settings)
                if isinstance(backbone, SpeechBackbone)
                else self._heard(examples, settings)
            )
        except BadSound:
            raise Refused(*_bad_sounds(backbone, examples, settings["window"])) from None

    def _told_by(
        self, backbone: MultimodalBackbone, examples: Sequence[Example], settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """By a language model, each sound whole."""
        if any(example.source == INLINE and example.targets for example in examples):
            raise Refused(_no_frames(backbone))
        rows = [self._asked(backbone, example, None) for example in examples]
        told = {name: settings[name] for name in ("max_new_tokens", "num_beams")}
        grown = generate(backbone, rows, stop=self.terminators(backbone), batch_size=32, **told)
        return [{"text": str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()} for ids in grown]

    def _written(
        self, backbone: SpeechBackbone, examples: Sequence[Example], settings: dict[str, Any]
    ) -> list[dict[str, Any]]:
        if any(example.source == INLINE and example.targets for example in examples):
            raise Refused(_no_frames(backbone))
        several = [parts(backbone, (example.sounds or [])[0], settings["window"]) for example in examples]
        rows = [row for some in several for _, row in some]
        ids = backbone.write(rows, max_new_tokens=settings["max_new_tokens"], num_beams=settings["num_beams"])
        texts = iter(str(backbone.tokenizer.decode(one, skip_special_tokens=True)).strip() for one in ids)
        said = [[next(texts) for _ in some] for some in several]
        return [{"text": " ".join(text for text in some if text)} for some in said]

    def _heard(self, examples: Sequence[Example], settings: dict[str, Any]) -> list[dict[str, Any]]:
        assert self.letters is not None
        heard = self.letters.heard([one for example in examples for one in example.sounds or []], settings["window"])
        return [
            self._aligned(example, one)
            if example.source == INLINE and example.targets
            else self._read(one, settings["num_beams"], settings["words"])
            for example, one in zip(examples, heard, strict=True)
        ]

    def _read(self, heard: Heard, beams: int, timed: bool) -> dict[str, Any]:
        assert self.letters is not None
        texts, words = [], []
        for logs_LV, seconds_L in zip(heard.logs, heard.seconds, strict=True):
            ids = self.letters.best(logs_LV, beams)
            texts.append(self.letters.text(ids))
            words += self.letters.words(ids, logs_LV, seconds_L) if timed else []
        answer: dict[str, Any] = {"text": " ".join(text for text in texts if text)}
        return answer | ({"words": words} if timed else {})

    def _aligned(self, example: Example, heard: Heard) -> dict[str, Any]:
        """A known transcript over the whole sound, whose parts' frames are laid end to end."""
        assert self.letters is not None
        try:
            words = self.letters.words(
                self.letters.of(self._told(example)[0]), np.concatenate(heard.logs), np.concatenate(heard.seconds)
            )
        except ValueError as error:
            what, mend = f"this transcript does not fit the sound: {error}", "check that they belong together"
            raise Refused(Finding("data.ctc-infeasible", f"{example.source}:audio", what, mend)) from None
        score = sum(word["score"] for word in words) / max(1, len(words))
        return {"text": " ".join(word["word"] for word in words), "words": words, "score": round(score, 4)}

    def terminators(self, backbone: Backbone) -> list[int]:
        return terminators(backbone) if isinstance(backbone, SpeechBackbone | MultimodalBackbone) else []

    def shown(self, example: Example) -> tuple[str, str]:
        return " ".join(told_sounds(example)), next(iter(example.targets or []), "")

    def shown_answer(self, answer: dict[str, Any]) -> str:
        return answer["text"]

    def decided(self, answer: dict[str, Any]) -> str:
        return answer["text"]

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        return self.said(answer["text"]) in self._told(example)

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        return None


def _no_frames(backbone: Backbone) -> Finding:
    what = f"{backbone.name} writes token by token: there are no frames that a known text could be laid over"
    return Finding("model.no-letters", "model.name", what, "use a model that learns by CTC")


def _bad_sounds(backbone: HearingBackbone, examples: Sequence[Example], window: float) -> list[Finding]:
    """What is wrong with each that can't be used."""
    findings = []
    for example in examples:
        try:
            parts(backbone, (example.sounds or [b""])[0], window)
        except BadSound as bad:
            findings.append(bad_sound(example, bad))
    return findings
