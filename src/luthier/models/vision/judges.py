"""Pretrained models of pictures and text with a head of one or more scores, for families of which transformers has
none: its own generic classifier on the family's own trunk, read at the last real token.

    kind = judge_class(AutoConfig.from_pretrained(folder))
    model = kind.from_pretrained(folder)        # of the base model, whose head is then new; or of one that was saved
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from luthier.models.vision.towers import writes_of_pictures


def judges(config: Any) -> bool:
    """Whether such a class is made for models of this config."""
    missing = type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return writes_of_pictures(config) and missing and type(config) in MODEL_MAPPING and not config.is_encoder_decoder


def judge_class(config: Any) -> Any:
    kind: Any = type(config)
    return _made(kind)


@lru_cache
def _made(kind: Any) -> Any:
    """``score`` (D) → C on ``model``, the family's trunk, under the names that its own checkpoints have for it: what is
    in them is called as in those of the class that writes, old ones too."""
    trunk: Any = MODEL_MAPPING[kind]
    family = next(one for one in trunk.__mro__[1:] if issubclass(one, PreTrainedModel))
    name = f"{trunk.__name__.removesuffix('Model')}ForSequenceClassification"
    held = {"config_class": kind, "base_model_prefix": "model", "__module__": __name__, "__doc__": _made.__doc__}
    made: Any = type(name, (GenericForSequenceClassification, family), held)
    made.from_config = made._from_config
    writer: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]
    names = get_checkpoint_conversion_mapping(writer.__name__) or get_checkpoint_conversion_mapping(kind.model_type)
    if names is not None:
        register_checkpoint_conversion_mapping(name, names, overwrite=True)
    return made
