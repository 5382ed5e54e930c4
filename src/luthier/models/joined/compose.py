"""Make one model folder of an encoder of pictures or of sounds and a text model: the towers' weights, and no others.

What joins them, a tower that is but a config, and a new head are not in the folder: they are drawn when it is opened,
under the seed of the run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from luthier.fusion import FUSIONS
from luthier.models.audio.ears import hears, open_sounds
from luthier.models.audio.frames import still
from luthier.models.joined.composed import (
    IMAGE_TOKEN,
    SOUND_TOKEN,
    ComposedConfig,
    ComposedModel,
    as_sequence,
    ear_of,
    writes,
)
from luthier.models.joined.writer import ComposedForCausalLM
from luthier.models.modes import evaluating
from luthier.models.vision.pictures import Pictures
from luthier.models.vision.pixels import open_pixels
from luthier.types import Finding, Refused, nearest


def compose(
    image: str, text: str, fuse: str, options: dict[str, Any], folder: Path, *, listens: bool = False,
    towers: Towers | None = None,
) -> None:  # fmt: skip
    """Write ``folder``: config.json, the towers' weights, the tokenizer and the image processor. ``listens``: the first
    tower is one of sounds. ``towers`` opens them; where they come without weights, the folder has their names alone.

    Raises Refused where a tower can't be opened or the options are wrong.
    """
    import transformers

    findings = option_findings(fuse, options)
    if findings:
        raise Refused(*findings)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    towers = towers or Towers()
    eyes, processor, blank = _audio_tower(image, towers) if listens else _image_tower(image, towers)
    reader, tokenizer = _text_tower(text, towers)
    with evaluating(eyes), torch.no_grad():
        states_1PD = as_sequence(eyes(blank).last_hidden_state)
    if listens and fuse != "similarity" and not writes(reader.config):
        what = f"sounds are joined by {fuse!r} with a model that writes, and {text} is an encoder"
        raise Refused(Finding("recipe.fuse", "model.fuse", what, "choose a decoder, or set `fuse: similarity`"))
    mark = SOUND_TOKEN if listens else IMAGE_TOKEN
    _add(mark, tokenizer, reader)
    causal = writes(reader.config)
    head = reader.get_output_embeddings() if causal and fuse != "similarity" else None
    config = ComposedConfig(
        image_config=eyes.config, text_config=reader.config, picture_tokens=states_1PD.shape[1],
        picture_width=states_1PD.shape[2], fusion=fuse, fusion_options=options,
        image_token_id=tokenizer.convert_tokens_to_ids(mark),
        classifier_reads="last" if getattr(reader.config, "is_decoder", False) or causal else "mean",
        logit_softcap=getattr(reader.config, "final_logit_softcapping", None),
        tie_word_embeddings=bool(head and reader.config.tie_word_embeddings), listens=listens,
    )  # fmt: skip
    with towers.making():
        whole: Any = ComposedForCausalLM(config) if head else ComposedModel(config)
    if towers.write_names is None:
        _fill(whole, eyes, reader, head)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    inside = "model." if head else ""
    drawn = tuple(f"{inside}{role}." for role, path in (("image", image), ("text", text)) if towers.bare(path))
    left_out = (f"{inside}fusion.", *drawn, *(["lm_head."] if towers.bare(text) else []))
    kept = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(left_out)}
    if towers.write_names is not None:
        config.save_pretrained(partial)
        towers.write_names(kept, partial / "model.safetensors")
    else:
        nothing = not kept
        whole.save_pretrained(partial, state_dict=kept)  # which empties the dictionary
        if nothing:
            save_file({}, partial / "model.safetensors", {"format": "pt"})
    tokenizer.save_pretrained(partial)
    processor.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _add(mark: str, tokenizer: Any, reader: Any) -> None:
    """The mark of a picture or a sound, to the tokenizer and to the embedding where that has no row for it."""
    if mark not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [mark]}, replace_extra_special_tokens=False)
    if len(tokenizer) > len(reader.get_input_embeddings().weight):
        with torch.random.fork_rng():  # the same rows whatever was drawn before
            torch.manual_seed(0)
            reader.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _fill(whole: Any, eyes: nn.Module, reader: Any, head: Any) -> None:
    """The towers' weights into the whole. Raises Refused where its head would give other logits."""
    for tower, found in ((whole.base_model.image, eyes), (whole.base_model.text, reader.base_model)):
        known = {n: t for n, t in found.state_dict().items() if not n.startswith("pooler.")}
        tower.load_state_dict(known)
    if head:
        whole.lm_head.load_state_dict(head.state_dict())
        _check_head(reader, whole)
        whole.generation_config = reader.generation_config
        whole.generation_config.suppress_tokens = [whole.config.image_token_id]  # it is read, and never written


def option_findings(fuse: str, options: dict[str, Any]) -> list[Finding]:
    if fuse not in FUSIONS:
        what = f"there is no way to join them called {fuse!r}"
        return [Finding("recipe.fuse", "model.fuse", what, f"one of: {', '.join(FUSIONS)}")]
    kind = FUSIONS.load(fuse).Options
    try:
        kind(**options)
    except ValidationError as error:
        return [_told(f"model.fuse.{fuse}", found, list(kind.model_fields)) for found in error.errors()]
    return []


def _told(where: str, found: Any, known: list[str]) -> Finding:
    """What is wrong with one option of a way to join."""
    key = ".".join(map(str, found["loc"]))
    where = f"{where}.{key}".rstrip(".")
    if found["type"] == "extra_forbidden":
        return Finding("recipe.unknown-key", where, f"unknown key `{key}`", nearest(key, known))
    mend = "give a value of that kind" if key else "give values that go together"
    return Finding("recipe.value", where, found["msg"].removeprefix("Value error, "), mend)


def is_bare(path: str) -> bool:
    """Whether a folder has a config and no weights."""
    folder = Path(path)
    return (folder / "config.json").is_file() and not any(folder.glob("*.safetensors*"))


def opened(path: str, auto: Any, config: Any) -> Any:
    """With its weights, or any at all where it has none."""
    if is_bare(path):
        return auto.from_config(config, dtype=torch.float32)
    return auto.from_pretrained(path, config=config, trust_remote_code=False, dtype=torch.float32)


@dataclass
class Towers:
    """How towers are opened, ``opened(path, auto class, config)``; which have no weights, so that theirs are drawn; and
    whether they are but a sketch, whose names ``write_names`` writes where weights would be."""

    opened: Callable[[str, Any, Any], Any] = opened
    bare: Callable[[str], bool] = is_bare
    write_names: Callable[[Iterable[str], Path], None] | None = None
    making: Callable[[], AbstractContextManager[Any]] = nullcontext


def _image_tower(path: str, towers: Towers) -> tuple[nn.Module, Any, Any]:
    """The part of a model that sees: itself, or of one that also reads text its vision tower."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    try:
        model = towers.opened(path, transformers.AutoModel, config)
        processor = open_pixels(path)
    except (OSError, ValueError) as error:
        what = f"{path} can't be opened as an image encoder with its processor: {' '.join(str(error).split())[:200]}"
        mend = "choose one such as ViT, DINOv2, CLIP or MobileNet, with its preprocessor_config.json"
        raise Refused(Finding("model.unreadable", "model.image", what, mend)) from None
    if hasattr(config, "vision_config"):
        if not hasattr(model, "vision_model"):
            what = f"the tower of {config.model_type} that sees can't be taken out of it"
            raise Refused(Finding("model.unreadable", "model.image", what, "choose an image encoder, CLIP or SigLIP"))
        model = model.vision_model
    return model, processor, Pictures(processor).blank


def _audio_tower(path: str, towers: Towers) -> tuple[nn.Module, Any, Any]:
    """The part of a model that hears. Raises Refused for one that hears nothing."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    if not hears(config):
        what, mend = f"{path} is no encoder of sounds", "choose one such as Wav2Vec2, HuBERT, AST or Whisper"
        raise Refused(Finding("model.no-sounds", "model.audio", what, mend))
    model, sounds = towers.opened(path, transformers.AutoModel, config), open_sounds(path)
    still(model)
    return ear_of(model), sounds.processor, sounds.blank()[None]


def _text_tower(path: str, towers: Towers) -> tuple[Any, Any]:
    """The model that reads, or, with its head, the one that writes."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    if hasattr(config, "vision_config"):
        what = f"{path} reads pictures too, and `text` is a model of text alone"
        raise Refused(Finding("model.unreadable", "model.text", what, "choose an encoder or a decoder of text"))
    auto: Any = transformers.AutoModelForCausalLM if writes(config) else transformers.AutoModel
    return towers.opened(path, auto, config), transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def _check_head(reader: Any, whole: ComposedForCausalLM) -> None:
    """Raises Refused where the decoder's own logits are not what its linear head gives."""
    ids = torch.tensor([[5, 6, 7]])
    with evaluating(reader), torch.no_grad():
        theirs, ours = reader(ids).logits, whole.head(reader.base_model(ids).last_hidden_state)
    if not torch.allclose(theirs, ours, atol=1e-4, rtol=1e-4):
        what = f"the head of {reader.config.model_type} does more than a linear layer, which is what is joined here"
        raise Refused(Finding("model.head", "model.text", what, "choose a decoder of another family, such as Llama"))


def key_of(parts: dict[str, Any]) -> str:
    """Names a composition."""
    import hashlib

    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
