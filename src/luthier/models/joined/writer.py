"""A composed model that writes: an encoder of pictures or sounds, a decoder with its own head, and what joins them.

    model = ComposedForCausalLM.from_pretrained(folder)
    model.generate(input_ids=..., attention_mask=..., pixel_values=..., picture_rows=...)  # of sounds: their features

Generation runs with the decoder's cache, and the image tower once. Pictures are not one a row, so beams and several
answers repeat them by row.

Axes: I pictures, P hidden states of one, D their width, K rows, L columns, E width of the fused states, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from luthier.models.joined.composed import ComposedConfig, ComposedModel, ComposedPreTrainedModel

CACHE = "cache" if "cache" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters else (
    "past_key_values"
)  # fmt: skip
"""What this version of transformers calls a decoder's keys and values."""
PICTURES = ("picture_states", "picture_rows", "picture_lengths")


class ComposedForCausalLM(ComposedPreTrainedModel, GenerationMixin):
    """The decoder's head, a linear layer, on the hidden states of rows with pictures: (K, L, V)."""

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.model = ComposedModel(config)
        text = config.text_config.get_text_config()
        self.vocab_size = text.vocab_size
        self.lm_head = nn.Linear(self.model.fusion.width, text.vocab_size, bias=False)
        if config.tie_word_embeddings:
            embedding = self.model.get_input_embeddings()
            name = next(name for name, module in self.named_modules() if module is embedding)
            self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:  # type: ignore[override]
        self.lm_head = value

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None, labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None, pixel_values: Tensor | None = None, picture_rows: Tensor | None = None,
        picture_states: Tensor | None = None, picture_lengths: Tensor | None = None, use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0, cache: Any = None, **inputs: Any,
    ) -> CausalLMOutputWithPast:  # fmt: skip
        """``labels`` (K, L): the loss is the mean over those that are not -100, each predicted at the place before."""
        inputs |= {} if cache is None else {CACHE: cache}
        if use_cache and inputs.get(CACHE) is None:
            inputs[CACHE] = DynamicCache(config=self.config.text_config)
        inputs |= {} if position_ids is None else {"position_ids": position_ids}
        hidden_KLE = self.model(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, pixel_values=pixel_values,
            picture_rows=picture_rows, picture_states=picture_states, picture_lengths=picture_lengths,
            use_cache=bool(use_cache), **inputs,
        ).last_hidden_state  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_KLV = self.head(hidden_KLE[:, kept])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits_KLV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits_KLV, **{CACHE: inputs.get(CACHE)})  # type: ignore[arg-type]

    def head(self, hidden_KLE: Tensor) -> Tensor:
        """(K, L, V)."""
        logits_KLV, cap = self.lm_head(hidden_KLE), self.config.logit_softcap
        return logits_KLV if cap is None else cap * torch.tanh(logits_KLV / cap)

    def generate(self, inputs: Tensor | None = None, pixel_values: Tensor | None = None, **settings: Any) -> Any:
        """As ``GenerationMixin.generate``; the image tower runs once, before the first token."""
        if pixel_values is not None:
            with torch.no_grad():
                settings["picture_states"], own_I = self.model.seen(pixel_values)
            settings |= {} if own_I is None or "picture_lengths" in settings else {"picture_lengths": own_I}
            settings.setdefault("picture_rows", torch.arange(len(pixel_values), device=self.device))
        return super().generate(inputs, **settings)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        made = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        if self.model.fusion.in_row and made.get("use_cache") and not kwargs.get("is_first_iteration"):
            made = {name: value for name, value in made.items() if name not in PICTURES}  # they are in the cache
        return made

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **given: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Rows repeated ``expand_size`` times each, and for each copy the pictures of its row."""
        states, rows_I, lengths_I = (given.pop(name, None) for name in PICTURES)
        expand: Any = GenerationMixin._expand_inputs_for_generation
        ids, given = expand(self, expand_size, is_encoder_decoder, input_ids, **given)
        if states is None or rows_I is None:
            return ids, given
        copies_IX = rows_I[:, None] * expand_size + torch.arange(expand_size, device=rows_I.device)
        order = copies_IX.flatten().argsort(stable=True)
        of_IX = torch.arange(len(rows_I), device=rows_I.device)[:, None].expand_as(copies_IX)
        given["picture_states"] = states[of_IX.flatten()[order]]
        given |= {} if lengths_I is None else {"picture_lengths": lengths_I[of_IX.flatten()[order]]}
        given["picture_rows"] = copies_IX.flatten()[order]
        return ids, given
