"""Open a model with the head that a task asks for, or draw one from its config. Only safetensors; no remote code."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from luthier.types import Finding, Refused


def load(
    name: str, path: str, needs: str, *, revision: str | None = None, config: dict[str, Any] | None = None,
    dtype: str = "float32", seed: int = 0, init: str = "pretrained", image_backend: str = "auto", **load_kwargs: Any,
) -> Any:  # fmt: skip
    """A Backbone with the head that ``needs`` asks for (see ``auto_class``), its pictures read by ``image_backend``.

    With ``init="random"`` its weights are drawn under ``seed`` as its config says, and none are read; of a composed
    model, those that it was made without. ``letters`` in ``config`` are those that a model without letters of its own
    is to write.
    """
    import torch
    import transformers

    from luthier.models.attention import register
    from luthier.models.backbone import OWN_HEADS
    from luthier.models.fingerprint import fingerprint
    from luthier.models.joined.composed import ComposedConfig
    from luthier.models.joined.registered import register_composed
    from luthier.models.vision.images import image_tower

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    register()
    register_composed()
    where = {"revision": revision} if revision else {}
    try:
        found = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
        config = dict(config or {})
        if (tower := image_tower(found, needs)) is not None:
            tower.update(config)
            found, config = tower, {"config": tower}
        auto = auto_class(needs, found)
        letters = config.pop("letters", None)
        reading = read_by(path, found, needs, letters, image_backend, **where)
        config |= reading.more
        given = {
            "dtype": getattr(torch, dtype),
            "use_safetensors": True,
            "output_loading_info": True,
            "ignore_mismatched_sizes": needs in OWN_HEADS,  # a head of other classes is a new one
            **where,
            **config,
            **load_kwargs,
        }
        if init == "random" and not isinstance(found, ComposedConfig):
            told = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where, **config)
            model, info = _drawn(auto, told, getattr(torch, dtype), seed)
        else:
            model, info = _read(auto, path, seed, given)
    except (OSError, ValueError) as error:
        raise Refused(unreadable(name, error, needs)) from None
    fresh = set(info["missing_keys"]) | {k[0] for k in info.get("mismatched_keys", ())}
    kind, beside = kind_of(needs, reading)
    backbone = kind(model, reading.tokenizer, name, path, needs, fresh, **beside)
    if backbone.reads_text:
        give_pad(backbone)
    backbone.fingerprint = fingerprint(backbone)
    return backbone


@dataclass
class Reading:
    """What turns rows into numbers, and what the model's config must be told of it."""

    tokenizer: Any
    pictures: Any = None
    sounds: Any = None
    apart: bool = False
    """Whether pictures are what a decoder reads beside its row, and no tokens of it."""
    more: dict[str, Any] = field(default_factory=dict)


def read_by(
    path: str, config: Any, needs: str, letters: Any = None, image_backend: str = "auto", **where: Any
) -> Reading:  # fmt: skip
    """Raises Refused, OSError and ValueError where it can't be opened."""
    from luthier.models.audio.ears import ears, hears
    from luthier.models.vision.towers import describes

    if hears(config):
        tokenizer, sounds, more = ears(path, needs, letters, **where)
        return Reading(tokenizer, sounds=sounds, more=more)
    tokenizer, pictures = readers(path, config, needs, image_backend, **where)
    return Reading(tokenizer, pictures, apart=needs == "token_logits" and describes(config))


def kind_of(needs: str, reading: Reading) -> tuple[type[Any], dict[str, Any]]:
    """The kind of Backbone for a model whose rows are read so, and what it is given beside a tokenizer."""
    from luthier.models.audio.hearing import HearingBackbone
    from luthier.models.audio.speech import SpeechBackbone
    from luthier.models.backbone import Backbone
    from luthier.models.joined.dual import DualBackbone
    from luthier.models.joined.multimodal import MultimodalBackbone
    from luthier.models.vision.describing import DescribingBackbone
    from luthier.models.vision.images import ImageBackbone, NoText
    from luthier.models.vision.leading import LeadingBackbone, LeadingPictures, SourcePictures
    from luthier.models.vision.leading_source import LeadingSourceBackbone
    from luthier.models.vision.prefix_lm import PrefixBackbone, PrefixPictures
    from luthier.models.vision.processed import ProcessedPictures
    from luthier.models.vision.vision_language import VisionLanguageBackbone

    if reading.sounds is not None:
        kind = SpeechBackbone if needs == "token_logits" else HearingBackbone
        return kind, {"sounds": reading.sounds}
    if reading.pictures is None:
        return Backbone, {}
    if reading.apart:
        return DescribingBackbone, {"pictures": reading.pictures}
    if isinstance(reading.pictures, ProcessedPictures):
        kinds = {PrefixPictures: PrefixBackbone, LeadingPictures: LeadingBackbone}
        kinds |= {SourcePictures: LeadingSourceBackbone}
        return kinds.get(type(reading.pictures), VisionLanguageBackbone), {"pictures": reading.pictures}
    reads_both = DualBackbone if needs == "vectors" else MultimodalBackbone
    reads = ImageBackbone if isinstance(reading.tokenizer, NoText) else reads_both
    return reads, {"pictures": reading.pictures}


def _drawn(auto: Any, config: Any, dtype: Any, seed: int) -> tuple[Any, dict[str, Any]]:
    """A model whose weights are all new; what is missing of a checkpoint is everything."""
    import torch

    torch.manual_seed(seed)
    model = auto.from_config(config, dtype=dtype)
    return model, {"missing_keys": [name for name, _ in model.named_parameters()]}


def _read(auto: Any, path: str, seed: int, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model of a checkpoint, and what of it was missing or of another shape.

    A fresh head is drawn under its own seed, so that the same recipe starts from the same numbers.
    """
    import torch

    # Where trust_remote_code is not said, transformers asks on the terminal.
    torch.manual_seed(seed)
    model, info = auto.from_pretrained(path, trust_remote_code=False, **given)
    if renamed := _renamed_trunk(model, info):
        torch.manual_seed(seed)
        model, info = auto.from_pretrained(path, trust_remote_code=False, key_mapping=renamed, **given)
    return model, info


def readers(path: str, config: Any, needs: str, image_backend: str = "auto", **where: Any) -> tuple[Any, Any]:
    """What turns rows into numbers: the tokenizer, and ``Pictures`` of a model that reads them."""
    import transformers

    from luthier.models.audio.ears import open_sounds
    from luthier.models.audio.recordings import Recordings
    from luthier.models.joined.composed import ComposedConfig
    from luthier.models.vision.images import NoText, reads_pictures_alone
    from luthier.models.vision.pictures import Pictures
    from luthier.models.vision.pixels import open_pixels
    from luthier.models.vision.processors import open_processor
    from luthier.models.vision.towers import describes, writes_of_pictures

    alone = reads_pictures_alone(config, needs)
    tokenizer = (
        NoText() if alone else transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
    )
    shown = writes_of_pictures(config) and needs in ("token_logits", "sequence_logits")
    apart = describes(config) and needs == "token_logits"
    if not (alone or shown or apart or config.model_type == ComposedConfig.model_type or needs == "vectors"):
        return tokenizer, None
    if getattr(config, "listens", False):
        return tokenizer, Recordings(open_sounds(path, **where))
    if find_spec("PIL") is None:
        what, mend = "pictures are read with Pillow, which is not installed", 'pip install "luthier[image]"'
        raise Refused(Finding("data.needs-extra", "model.name", what, mend))
    if shown:
        pictures = open_processor(path, tokenizer, config, image_backend, **where)
        if needs == "sequence_logits":
            pictures.check_scores()
        return tokenizer, pictures
    return tokenizer, Pictures(open_pixels(path, image_backend, **where))


def _renamed_trunk(model: Any, info: dict[str, Any]) -> dict[str, str]:
    """What to call the checkpoint's trunk where this head's class has another name for it and found none of it."""
    ours = f"{model.base_model_prefix}."
    missing = {name.removeprefix(ours) for name in info["missing_keys"] if name.startswith(ours)}
    for prefix in {name.partition(".")[0] for name in info["unexpected_keys"]}:
        theirs = {name.partition(".")[2] for name in info["unexpected_keys"] if name.startswith(f"{prefix}.")}
        if missing and missing <= theirs:
            return {rf"^{prefix}\.": ours}
    return {}


def auto_class(needs: str, config: Any) -> Any:
    """The class of transformers that opens a model of this config with the head that ``needs`` asks for.

    Raises Refused for a head on tokens over an encoder-decoder, whose forward reads one stack or both by model.
    """
    import transformers

    from luthier.models.audio.ears import ears_class, hears, refuse_both
    from luthier.models.joined.action_expert import ComposedForActionFlow
    from luthier.models.joined.composed import ComposedConfig
    from luthier.models.joined.dual import compares
    from luthier.models.joined.dual_encoder import ComposedDualEncoder
    from luthier.models.vision.images import reads_pictures_alone
    from luthier.models.vision.judges import judge_class, judges
    from luthier.models.vision.towers import describes, writes_of_pictures

    refuse_both(config)
    if hears(config):
        return ears_class(needs, config)
    composed, alone = isinstance(config, ComposedConfig), reads_pictures_alone(config, needs)
    _refuse(needs, config, composed, compares(config) and not alone)
    if needs == "token_logits" and (writes_of_pictures(config) or describes(config)):
        return transformers.AutoModelForImageTextToText
    if needs == "sequence_logits" and judges(config):
        return judge_class(config)
    if needs == "vectors":
        return ComposedDualEncoder if composed else transformers.AutoModel
    if needs == "action_flow":
        return ComposedForActionFlow
    if alone:
        sorts = transformers.AutoModelForImageClassification
        known: Any = {"sequence_logits": sorts, "hidden": sorts if compares(config) else transformers.AutoModel}
        if needs not in known:
            what = f"a model of pictures alone ({config.model_type}) reads and writes no text"
            raise Refused(
                Finding("model.no-text", "model.name", what, "use it with `task: classify`, or choose another")
            )
        return known[needs]
    writes: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return {
        "token_logits": writes,
        "sequence_logits": transformers.AutoModelForSequenceClassification,
        "tag_logits": transformers.AutoModelForTokenClassification,
        "span_logits": transformers.AutoModelForQuestionAnswering,
        "hidden": transformers.AutoModel,
    }[needs]


def _refuse(needs: str, config: Any, composed: bool, compares: bool) -> None:
    """Raises Refused where no such head stands on a model of this config; ``compares`` pictures with texts."""
    from luthier.models.vision.images import image_tower
    from luthier.models.vision.towers import describes, reads_pictures_apart

    if needs == "token_logits" and reads_pictures_apart(config) and not describes(config):
        what = f"a model of this kind ({config.model_type}) writes of a picture that has no place among its tokens"
        mend = "compose one of its parts, `model: {image: ..., text: ...}`, or choose a model such as LLaVA or Idefics3"
        raise Refused(Finding("model.processor", "model.name", what, mend))
    if needs == "frame_logits":
        what, mend = "this model hears nothing", "choose one that does (such as Wav2Vec2, HuBERT or Whisper)"
        raise Refused(Finding("model.no-sounds", "model.name", what, mend))
    if needs == "vectors" and not compares:
        what = "this model gives no vectors of pictures and of texts that could be compared"
        mend = "choose one such as CLIP or SigLIP, or `model: {image: ..., text: ..., fuse: similarity}`"
        raise Refused(Finding("model.no-vectors", "model.name", what, mend))
    if composed and needs != "vectors" and compares:
        what = "`fuse: similarity` joins nothing: it gives a vector of a picture and one of a text"
        mend = "use it with `task: match`, or another `model.fuse`"
        raise Refused(Finding("recipe.combination", "model.fuse", what, mend))
    if needs in ("hidden", "sequence_logits") and compares:
        what = "this model gives a vector of a picture and one of a text, and no hidden states of a row"
        own = "" if image_tower(config, "hidden") is None else " with `method: features`, or"
        mend = f"transformers has no classifier on its image encoder: classify{own} by a model such as CLIP or SigLIP"
        raise Refused(Finding("model.no-hidden", "model.name", what, mend))
    if needs == "action_flow" and not composed:
        what = "an action expert reads the hidden states of a composed model"
        mend = "give `model: {image: ..., text: ...}`, or predict by `act.predicts: regression`"
        raise Refused(Finding("model.no-expert", "model.name", what, mend))
    if needs in ("tag_logits", "span_logits") and config.is_encoder_decoder:
        what = "an encoder-decoder writes; a head on the tokens of its source is another model"
        mend = "choose an encoder (such as BERT) or a decoder, or let this model write the answer"
        raise Refused(Finding("model.encoder-decoder", "model.name", what, mend))


def give_pad(backbone: Any) -> None:
    """A pad token where the tokenizer, or a classifier's config, has none."""
    tokenizer, config = backbone.tokenizer, backbone.model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if backbone.needs == "sequence_logits" and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def unreadable(name: str, error: Exception, needs: str = "") -> Finding:
    first = str(error).strip().split("\n")[0][:300]
    mend = "give a local folder, check the hub id and the network, or use `starter:minilm`"
    if "Unrecognized configuration class" in first or "Unrecognized model" in first:
        mend = f"this architecture offers no {needs.replace('_', ' ')}: choose another model or task"
    return Finding("model.unreadable", "model.name", f"{name} could not be opened: {first}", mend)
