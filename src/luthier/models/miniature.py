"""A small random model of an architecture, to be asked what no shape tells: whether rows can be packed, whether a
position sees only those before it, which positions a head reads, whether pads change a vector.

Of a model of text it has two narrow layers. Towers of pictures and sounds keep their width, and their layers where the
config does not count them: such models are asked of their habits with the real picture or sound.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from luthier.models.backbone import Backbone
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.vision.vision_language import VisionLanguageBackbone

LAYERS, HEADS, HEAD_WIDTH, VOCABULARY = 2, 2, 16, 256
TEXT = (Backbone, MultimodalBackbone, VisionLanguageBackbone)
"""Kinds that are asked of rows of text."""
UNABLE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, AssertionError)


def miniature(auto: Any, config: Any, kind: type[Backbone], given: tuple[Any, ...], **beside: Any) -> Any | None:
    """A Backbone of that ``kind`` that runs, or None. ``given``: its tokenizer, name, path and what it must give."""
    of_text = kind in TEXT
    for shrink in (_narrow, _shallow) if of_text else (_lower, copy.copy):
        try:
            small = shrink(copy.deepcopy(config))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = built(auto, small)
                if of_text:
                    _widen(model)
            made = kind(model.eval(), *given, **beside)
            _ = made.causal  # it runs, and its head too
            if made.needs == "sequence_logits":
                _ = made.reads
            return made
        except UNABLE:
            continue
    return None


def built(auto: Any, config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A model of a config, by one of transformers' classes or one of ours."""
    return (getattr(auto, "from_config", None) or auto._from_config)(config, dtype=dtype)


def _lower(config: Any) -> Any:
    """Two layers in each tower; widths and vocabulary as they are."""
    for tower in (config, *_towers(config)):
        layers = getattr(tower, "num_hidden_layers", None)
        if isinstance(layers, int) and layers > LAYERS and not getattr(tower, "layer_types", None):
            tower.num_hidden_layers = LAYERS
    return config


def _towers(config: Any) -> list[Any]:
    return [getattr(config, name) for name in config.sub_configs if getattr(config, name, None) is not None]


def _shallow(config: Any) -> Any:
    """Two layers and a small vocabulary; widths as they are."""
    text = config.get_text_config()
    period = getattr(text, "global_attn_every_n_layers", None) or getattr(text, "sliding_window_pattern", None) or 1
    layers = min(text.num_hidden_layers, max(LAYERS, period if isinstance(period, int) else 1))
    text.num_hidden_layers = layers
    for key in ("layer_types", "mlp_layer_types"):
        if getattr(text, key, None):
            setattr(text, key, getattr(text, key)[:layers])
    text.vocab_size = VOCABULARY
    for one in {id(one): one for one in (text, config)}.values():
        for key in list(vars(one)):
            value = getattr(one, key)
            if key.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
                setattr(one, key, 0 if one is text else VOCABULARY - 1)
    for tower in _towers(config):
        if tower is not text and isinstance(getattr(tower, "num_hidden_layers", None), int):
            tower.num_hidden_layers = min(LAYERS, tower.num_hidden_layers)
    return config


def _narrow(config: Any) -> Any:
    """Two narrow layers: the proportions of heads to key-value heads are kept where there are such."""
    text = _shallow(config).get_text_config()
    grouped = getattr(text, "num_key_value_heads", None)
    if grouped is not None:
        text.num_key_value_heads = HEADS if grouped == text.num_attention_heads else 1
    text.num_attention_heads, text.hidden_size = HEADS, HEADS * HEAD_WIDTH
    if getattr(text, "head_dim", None) is not None:
        text.head_dim = HEAD_WIDTH
    if getattr(text, "intermediate_size", None) is not None:
        text.intermediate_size = 3 * HEAD_WIDTH
    return config


def _widen(model: nn.Module) -> None:
    """Weights drawn wide, so that hidden states differ by their input as a trained model's do."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)
