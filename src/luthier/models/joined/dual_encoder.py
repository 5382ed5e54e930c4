"""An image encoder and a text encoder whose vectors are compared, as one ``PreTrainedModel`` with CLIP's methods.

    model = ComposedDualEncoder.from_pretrained(folder)
    model(input_ids=..., attention_mask=..., pixel_values=...).logits_per_image

Axes: I pictures, K texts, L columns, S width of the shared space.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput

from luthier.fusion.common import mean_of
from luthier.models.joined.composed import ComposedConfig, ComposedModel, ComposedPreTrainedModel, mask_of, pooled

TEMPERATURE = 0.07  # Radford et al. 2021 (arXiv 2103.00020), section 2.5


class ComposedDualEncoder(ComposedPreTrainedModel):
    """``fusion: similarity`` on two towers, and the logarithm of what similarities are multiplied by."""

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.model = ComposedModel(config)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ComposedDualEncoder):
            module.logit_scale.fill_(-math.log(TEMPERATURE))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """``pooler_output`` (I, S)."""
        states_IPD, lengths_I = self.model.seen(pixel_values)
        read = states_IPD if lengths_I is None else mean_of(states_IPD, lengths_I)[:, None]
        return BaseModelOutputWithPooling(last_hidden_state=states_IPD, pooler_output=self.model.fusion.image(read))

    def get_text_features(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, **inputs: Any,
    ) -> BaseModelOutputWithPooling:  # fmt: skip
        """``pooler_output`` (K, S)."""
        mask_KL = mask_of(input_ids, inputs_embeds, attention_mask)
        hidden_KLE = self.model.text(
            input_ids=input_ids, attention_mask=mask_KL, inputs_embeds=inputs_embeds, **inputs
        ).last_hidden_state
        text_KS = self.model.fusion.text(pooled(hidden_KLE, mask_KL, self.config.classifier_reads))
        return BaseModelOutputWithPooling(last_hidden_state=hidden_KLE, pooler_output=text_KS)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> CLIPOutput:
        """``logits_per_image`` (I, K), ``logits_per_text`` (K, I), and both sides' vectors of length 1."""
        image, text = self.get_image_features(pixel_values), self.get_text_features(input_ids, attention_mask, **inputs)
        image_IS, text_KS = (F.normalize(cast(Tensor, side.pooler_output), dim=-1) for side in (image, text))
        logits_IK = self.logit_scale.exp() * image_IS @ text_KS.T
        return CLIPOutput(
            logits_per_image=logits_IK, logits_per_text=logits_IK.T, image_embeds=image_IS, text_embeds=text_KS
        )
