"""An encoder of pictures or of sounds and a text model as one: a ``PreTrainedModel`` that saves and loads whole.

    model = ComposedForSequenceClassification.from_pretrained(folder)
    model = ComposedForCausalLM.from_pretrained(folder)         # see models/joined/writer.py

Its trunk gives hidden states of rows of text in which pictures are: the image tower's hidden states and the text tower
meet in one of the mechanisms of ``luthier.fusion``, which is a part of the trunk. Where the first tower hears, sounds
stand wherever pictures are spoken of, each of a length of its own.

Axes: I pictures, P hidden states of one, K rows, L columns, E width of the fused states, C classes, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from luthier.data.text.turns import MARK, SOUND_MARK
from luthier.fusion import FUSIONS
from luthier.fusion.common import Drawn, Inside, Sizes
from luthier.models.audio.recordings import lengths_of
from luthier.models.blocks import blocks_of, trunk_name

IMAGE_TOKEN, SOUND_TOKEN = MARK, SOUND_MARK
"""The mark of a picture, or of a sound, in a text is a token of a composed model."""


class ComposedConfig(PreTrainedConfig):
    """``image_config`` and ``text_config`` of the towers; ``picture_tokens`` hidden states of a picture, of
    ``picture_width``; the ``fusion`` by name with its options; which id stands for pictures in a row; what the
    classifier reads; what caps a writer's logits, c · tanh(z / c); actions of a chunk and numbers of one, where it has
    an action expert of so many layers."""

    model_type = "luthier_composed"
    sub_configs = {"image_config": AutoConfig, "text_config": AutoConfig}

    def __init__(
        self, image_config: Any = None, text_config: Any = None, picture_tokens: int = 1, picture_width: int = 1,
        fusion: str = "projection", fusion_options: dict[str, Any] | None = None, image_token_id: int = 0,
        classifier_reads: str = "mean", classifier_dropout: float = 0.1, logit_softcap: float | None = None,
        action_chunk: int = 1, action_size: int = 1, action_layers: int = 2, listens: bool = False, **kwargs: Any,
    ):  # fmt: skip
        self.image_config, self.text_config = _tower_config(image_config), _tower_config(text_config)
        self.picture_tokens, self.picture_width = picture_tokens, picture_width
        self.fusion, self.fusion_options = fusion, fusion_options
        self.image_token_id = image_token_id
        self.classifier_reads, self.classifier_dropout = classifier_reads, classifier_dropout
        self.logit_softcap = logit_softcap
        self.action_chunk, self.action_size, self.action_layers = action_chunk, action_size, action_layers
        self.listens = listens  # its first tower hears sounds
        super().__init__(**kwargs)


def _tower_config(given: Any) -> Any:
    return AutoConfig.for_model(**given) if isinstance(given, dict) else given


def writes(config: Any) -> bool:
    """Whether a text model of this config writes: a decoder, and no encoder that could be run as one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


class ComposedPreTrainedModel(PreTrainedModel):
    config_class = ComposedConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    input_modalities = ["image", "text"]

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """Of the text tower, whose rows are packed or padded; that of pictures keeps its own."""
        text: Any = self.base_model.text
        if attn_implementation == "sdpa" and not text._supports_sdpa:
            attn_implementation = "eager"
        text.set_attn_implementation(attn_implementation, allow_all_kernels)
        self.config._attn_implementation_internal = text.config._attn_implementation

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Of what no checkpoint holds: by transformers' rules, and a mechanism's own parameters by its own."""
        super()._init_weights(module)
        if isinstance(module, Drawn):
            module.draw()


class ComposedModel(ComposedPreTrainedModel):
    """The trunk: ``last_hidden_state`` (K, L, E)."""

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.image = AutoModel.from_config(config.image_config)
        if config.listens:
            self.image = ear_of(self.image)
        self.text = AutoModel.from_config(config.text_config)
        for tower in (self.image, self.text):  # hidden states are fused, not what a pooler makes of them
            if getattr(tower, "pooler", None) is not None and any(True for _ in tower.pooler.parameters()):
                tower.pooler = None
        blocks = [self.text.get_submodule(name) for name in blocks_of(self.text)] if writes(config.text_config) else []
        width = config.text_config.get_text_config().hidden_size
        sizes = Sizes(config.picture_width, width, config.picture_tokens, len(blocks), config.listens)
        module = FUSIONS.load(config.fusion)
        self.fusion = module.Fusion(module.Options(**(config.fusion_options or {})), sizes)
        if isinstance(self.fusion, Inside):
            self.fusion.enter(blocks)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text.set_input_embeddings(value)

    def towers(self) -> dict[str, nn.Module]:
        """The stacks by role."""
        return {"audio" if self.config.listens else "image": self.image, "text": self.text}

    def pictures(self, pixel_values: Tensor) -> Tensor:
        """(I, C, H, W), or features of sounds of one length, → (I, P, D)."""
        given = [pixel_values] if self.config.listens else []
        named = {} if given else {"pixel_values": pixel_values}
        return as_sequence(self.image(*given, **named).last_hidden_state)

    def seen(self, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
        """(I, P, D), zeros behind the shorter ones, and how many of each are its own (I,), None where all are.

        Features of sounds are (I, L) or (I, L, F), NaN behind the shorter ones; those of one length run together.
        """
        if not self.config.listens:
            return self.pictures(pixel_values), None
        steps_I = lengths_of(pixel_values)
        found: dict[int, Tensor] = {}
        for steps in sorted(set(steps_I.tolist())):
            at = (steps_I == steps).nonzero()[:, 0]
            found |= zip(at.tolist(), self.pictures(pixel_values[at, :steps]), strict=True)
        states = [found[one] for one in range(len(steps_I))]
        own_I = torch.tensor([len(one) for one in states], device=pixel_values.device)
        return nn.utils.rnn.pad_sequence(states, batch_first=True), own_I

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, pixel_values: Tensor | None = None,
        picture_rows: Tensor | None = None, picture_of: Tensor | None = None, picture_states: Tensor | None = None,
        picture_lengths: Tensor | None = None, text_states: Tensor | None = None, **inputs: Any,
    ) -> BaseModelOutput:  # fmt: skip
        """``pixel_values`` of all pictures in the order of the rows, or the hidden ``picture_states`` (I, P, D) that
        were made of them before; ``picture_rows`` (I,) the row of each; where some stand in several rows and are given
        once, ``picture_of`` (I,) which of those given each is; of sounds ``picture_lengths`` (I,), how many
        hidden states are read, all where they are not given. ``text_states`` (K, L, E) are what the text
        tower made of the rows before, for a mechanism that reads no more of it than that."""
        embed = self.get_input_embeddings()
        marker_E = embed(torch.tensor(self.config.image_token_id, device=self.device))
        if inputs_embeds is None:
            places_KL, inputs_embeds = input_ids == self.config.image_token_id, embed(input_ids)
        else:  # with virtual tokens: a placeholder is known by its embedding
            places_KL = (inputs_embeds == marker_E).all(-1)
        inputs["inputs_embeds"] = inputs_embeds
        if picture_states is None and pixel_values is not None:
            picture_states, own_I = self.seen(pixel_values)
            if picture_of is not None:
                picture_states = picture_states[picture_of]
                own_I = None if own_I is None else own_I[picture_of]
            picture_lengths = own_I if picture_lengths is None else picture_lengths
        if picture_states is None:
            shape = 0, self.config.picture_tokens, self.config.picture_width
            states_IPD, rows_I = inputs_embeds.new_zeros(shape), torch.zeros(0, dtype=torch.long, device=self.device)
            places_KL = torch.zeros_like(places_KL)
        else:
            states_IPD = picture_states
            rows_I = torch.arange(len(states_IPD), device=self.device) if picture_rows is None else picture_rows
        inputs["places_KL"] = places_KL
        text: Any = self.text if text_states is None else lambda **_: BaseModelOutput(last_hidden_state=text_states)
        return BaseModelOutput(last_hidden_state=self.fusion(text, inputs, states_IPD, rows_I, picture_lengths))


class ComposedForSequenceClassification(ComposedPreTrainedModel):
    """A linear layer on the mean of a row's hidden states (or on its first or last): (K, C)."""

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ComposedModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(self.model.fusion.width, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any,
    ) -> SequenceClassifierOutput:  # fmt: skip
        mask_KL = mask_of(input_ids, inputs_embeds, attention_mask)
        hidden_KLE = self.model(
            input_ids=input_ids, attention_mask=mask_KL, inputs_embeds=inputs_embeds, **inputs
        ).last_hidden_state
        logits = self.classifier(self.dropout(pooled(hidden_KLE, mask_KL, self.config.classifier_reads)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def mask_of(input_ids: Tensor | None, inputs_embeds: Tensor | None, mask_KL: Tensor | None) -> Tensor:
    """(K, L), ones where none is given."""
    if mask_KL is not None:
        return mask_KL
    given: Any = input_ids if inputs_embeds is None else inputs_embeds
    return torch.ones(given.shape[:2], dtype=torch.long, device=given.device)


def pooled(hidden_KLE: Tensor, mask_KL: Tensor, reads: str) -> Tensor:
    """(K, E): the mean of each row's hidden states, or its first or last one."""
    if reads == "mean":
        mask_KL1 = mask_KL[..., None].to(hidden_KLE.dtype)
        return (hidden_KLE * mask_KL1).sum(1) / mask_KL1.sum(1)
    columns_L = torch.arange(mask_KL.shape[1], device=mask_KL.device)
    at_K = mask_KL.argmax(1) if reads == "first" else (mask_KL * columns_L).argmax(1)
    return hidden_KLE[torch.arange(len(hidden_KLE), device=hidden_KLE.device), at_K]


def ear_of(model: Any) -> Any:
    """What hears of a model: of an encoder-decoder the encoder, and what a head of letters stands on."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.get_submodule(trunk_name(model))


def as_sequence(states: Tensor) -> Tensor:
    """(I, C, H, W) of a convolutional tower → (I, H · W, C); (I, P, D) as it is."""
    return states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
