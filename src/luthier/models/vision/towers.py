"""Pretrained models that read pictures among tokens and write text: which they are, and where their towers stand.

Told by transformers' catalogue of such models and by what their config and their modules have, never by a name.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def writes_of_pictures(config: Any) -> bool:
    """Whether transformers has a model of this config that reads pictures among tokens and writes text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and image_id(config) is not None


def reads_pictures_apart(config: Any) -> bool:
    """Whether such a model's pictures stand for no token of a row (as where an image encoder is a decoder's source)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and image_id(config) is None


def describes(config: Any) -> bool:
    """Whether a picture is the source of an encoder-decoder of two models, and so beside all that is written."""
    two = {"encoder", "decoder"} <= {*config.sub_configs, *vars(config)}
    return reads_pictures_apart(config) and bool(config.is_encoder_decoder) and two


def image_id(config: Any) -> int | None:
    """The token that stands for a picture, as the model's config says it."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None


def writer_of(model: Any) -> Any:
    """What writes in such a model: the language model inside that has the head, or the model itself."""
    inside = [module for module in model.children() if isinstance(module, PreTrainedModel)]
    return next((one for one in inside if one.get_output_embeddings() is not None), model)


def writes_from_source(config: Any) -> bool:
    """Whether the language model inside such a model is an encoder-decoder."""
    return writes_of_pictures(config) and bool(config.get_text_config().is_encoder_decoder)


def towers_of(model: Any) -> dict[str, nn.Module]:
    """The parts of such a model that have a config of their own for pictures and for text; none of another model."""
    config = model.config
    parts = {"image": getattr(config, "vision_config", None), "text": getattr(config, "text_config", None)}
    found = {}
    for role, wanted in parts.items():
        for _, module in model.base_model.named_modules():
            own = getattr(module, "config", None)
            if wanted is not None and module is not model.base_model and own is not None and type(own) is type(wanted):
                found[role] = module
                break
    return found if len(found) == 2 else {}
