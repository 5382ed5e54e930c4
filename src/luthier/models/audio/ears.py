"""Opening a model that hears: its class, its feature extractor, and the letters that it writes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.models.vision.images import NoText
from luthier.types import Finding, Refused

BLANK, UNKNOWN, BETWEEN = "<pad>", "<unk>", "|"


class NoWords(NoText):
    """Stands where a tokenizer would, of a model that hears and writes nothing."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "[sound]" if ids else ""


def hears(config: Any) -> bool:
    """Whether models of this config classify sounds, or write down what is said in them."""
    from transformers.models.auto import modeling_auto as auto

    kinds = (
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, auto.MODEL_FOR_CTC_MAPPING,
        auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    )  # fmt: skip
    return any(type(config) in kind for kind in kinds)


def refuse_both(config: Any) -> None:
    """Raises Refused for a pretrained model of sounds and text together, as CLAP or Qwen2-Audio: sounds are heard by
    encoders of their own."""
    parts = getattr(config, "sub_configs", {})
    if not {"audio_config", "text_config"} <= {*parts} or "vision_config" in parts:
        return
    compares = getattr(config, "projection_dim", None) is not None
    fuse, done = ("similarity", "compare sounds with texts") if compares else ("projection", "hear and write")
    what = f"pretrained models that {done} ({config.model_type}) are not opened"
    mend = f"join an encoder of sounds with a text model: `model: {{audio: ..., text: ..., fuse: {fuse}}}`"
    raise Refused(Finding("model.no-sounds", "model.name", what, mend))


def ears_class(needs: str, config: Any) -> Any:
    """The class of transformers with the head that ``needs`` asks for. Raises Refused where there is none."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    known: dict[str, tuple[Any, Any, str]] = {
        "sequence_logits": (
            auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING, transformers.AutoModelForAudioClassification,
            "classifies no sounds",
        ),
        "token_logits": (
            auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING, transformers.AutoModelForSpeechSeq2Seq, "writes nothing",
        ),
        "frame_logits": (auto.MODEL_FOR_CTC_MAPPING, transformers.AutoModelForCTC, "has no letters for its frames"),
    }  # fmt: skip
    if needs == "hidden":
        return transformers.AutoModel
    writes = type(config) in auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    if needs in known and (needs != "token_logits" or writes):
        mapping, auto_class, what = known[needs]
        if type(config) in mapping:
            return auto_class
        mend = "choose one such as Wav2Vec2, HuBERT or WavLM"
        raise Refused(Finding("model.head", "model.name", f"a model of this kind ({config.model_type}) {what}", mend))
    what = f"a model of sounds ({config.model_type}) reads no text"
    raise Refused(
        Finding("model.no-text", "model.name", what, "use `task: transcribe` or `classify`, or choose another")
    )


def ears(path: str, needs: str, letters: Sequence[str] | None, **where: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The tokenizer, the ``Sounds``, and what the config must be told of the letters.

    Letters are the model's own where it has some; else ``letters``, with a blank, an unknown and a space.
    """
    import transformers

    sounds = open_sounds(path, **where)
    tokenizer: Any
    if needs == "token_logits":
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
        return tokenizer, sounds, {}
    if needs != "frame_logits":
        return NoWords(), sounds, {}
    tokenizer = own_letters(path, **where)
    if tokenizer is not None:
        return tokenizer, sounds, {}
    if letters is None:  # known once the adapter that brings them is read
        return NoWords(), sounds, {}
    made = made_of(letters)
    return made, sounds, {"vocab_size": len(made), "pad_token_id": made.pad_token_id}


def open_sounds(path: str, **where: Any) -> Any:
    """``Sounds`` by the model's own feature extractor."""
    import transformers

    from luthier.models.audio.sounds import Sounds

    if find_spec("soundfile") is None:
        what, mend = "sounds are read with soundfile, which is not installed", 'pip install "luthier[speech]"'
        raise Refused(Finding("data.needs-extra", "model.name", what, mend))
    return Sounds(transformers.AutoFeatureExtractor.from_pretrained(path, trust_remote_code=False, **where))


def own_letters(path: str | Path, **where: Any) -> Any | None:
    """The tokenizer that lies beside a model, or None."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
    except (OSError, TypeError, ValueError, KeyError, AttributeError):  # what transformers raises where there is none
        return None


def made_of(letters: Sequence[str]) -> Any:
    """A tokenizer of single letters, in transformers' own class for CTC: 0 is the blank, which also pads."""
    import transformers

    names = [BLANK, UNKNOWN, BETWEEN, *sorted({letter for letter in letters if not letter.isspace()} - {BETWEEN})]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps({name: at for at, name in enumerate(names)}), encoding="utf-8")
        return transformers.Wav2Vec2CTCTokenizer(
            str(file), pad_token=BLANK, unk_token=UNKNOWN, word_delimiter_token=BETWEEN, bos_token=None, eos_token=None,
        )  # fmt: skip


def writes_by(path: str) -> str:
    """By which objective a model of this folder or id learns to write what it hears."""
    import transformers

    from luthier.models.joined.registered import register_composed

    register_composed()
    try:
        return objective_of(transformers.AutoConfig.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError):  # told when it is opened
        return "ctc"


def objective_of(config: Any) -> str:
    from transformers.models.auto import modeling_auto as auto

    return (
        "next_token"
        if getattr(config, "listens", False) or type(config) in auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
        else "ctc"
    )
