"""Composed models in transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from luthier.models.joined.composed import ComposedConfig, ComposedForSequenceClassification, ComposedModel
from luthier.models.joined.writer import ComposedForCausalLM


def register_composed() -> None:
    """Let ``AutoModel...from_pretrained`` of this process open composed models."""
    AutoConfig.register(ComposedConfig.model_type, ComposedConfig, exist_ok=True)
    AutoModel.register(ComposedConfig, ComposedModel, exist_ok=True)
    AutoModelForCausalLM.register(ComposedConfig, ComposedForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(ComposedConfig, ComposedForSequenceClassification, exist_ok=True)
