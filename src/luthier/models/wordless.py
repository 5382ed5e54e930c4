"""What a model of pictures or of sounds alone has none of: words, their positions, an order in which to write them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from transformers import PreTrainedModel

from luthier.models.backbone import Backbone
from luthier.models.blocks import trunk_name


@dataclass(kw_only=True)
class Wordless(Backbone):
    @property
    def trunk(self) -> PreTrainedModel:
        """What sees or hears: of an encoder-decoder the encoder."""
        if self.encoder_decoder:
            return cast(PreTrainedModel, self.model.get_encoder())
        return cast(PreTrainedModel, self.model.get_submodule(trunk_name(self.model)))

    @property
    def reads_text(self) -> bool:
        return False

    @property
    def max_positions(self) -> int | None:
        return None

    @cached_property
    def has_position_table(self) -> bool:
        return False

    @cached_property
    def causal(self) -> bool:
        return False
