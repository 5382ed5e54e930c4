"""The head of any transformers model, applied to chosen hidden states alone.

A model with a head is ``forward = head(trunk(inputs))``, with the model's own details in between (soft-capping,
scaling, a pooler, dropout). Answering for the trunk with hidden states computed before gives the head exactly as its
authors wrote it, for any architecture: at the supervised positions only, or on packed rows. Of an encoder-decoder the
decoder is answered for, and the encoder's outputs are given.

Axes: N chosen positions, V vocabulary, K rows, L positions of a row, D hidden width, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as TrunkOutput

from luthier.models.blocks import trunk_name
from luthier.models.modes import evaluating
from luthier.models.stacks import is_encoder_decoder


class _Output(TrunkOutput):
    """None for whatever else a head passes on of its trunk's outputs."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Answer(nn.Module):
    """Stands in for the trunk and returns the hidden states that it was given.

    ``pooled``: they are what the trunk pools, one vector a row, and not what it pools from.
    """

    def __init__(self, hidden_KLD: Tensor, trunk: nn.Module, *, pooled: bool = False):
        super().__init__()
        self.hidden_KLD, self.is_pooled = hidden_KLD, pooled
        # A list hides the pooler from the module tree: it is the trunk's, and is only borrowed.
        self.pooler = [getattr(trunk, "pooler", None)]
        self.config = getattr(trunk, "config", None)  # some heads look there for their soft-capping

    def forward(self, *_: object, **__: object) -> _Output:
        if self.is_pooled:
            return _Output(last_hidden_state=self.hidden_KLD, pooler_output=self.hidden_KLD[:, 0])
        pooled = self.pooler[0](self.hidden_KLD) if self.pooler[0] is not None else None
        pooled = pooled.flatten(1) if pooled is not None else None  # of a grid: (K, D, 1, 1)
        return _Output(last_hidden_state=self.hidden_KLD, pooler_output=pooled)


@contextmanager
def answered(model: PreTrainedModel, hidden_KLD: Tensor, *, pooled: bool = False) -> Iterator[None]:
    """Within this context ``model``'s trunk (the decoder of an encoder-decoder) returns ``hidden_KLD``."""
    owner, _, prefix = _trunk_name(model).rpartition(".")
    modules = model.get_submodule(owner)._modules
    trunk = modules[prefix]
    assert trunk is not None
    modules[prefix] = _Answer(hidden_KLD, trunk, pooled=pooled)
    try:
        yield
    finally:
        modules[prefix] = trunk


def _trunk_name(model: PreTrainedModel) -> str:
    if not is_encoder_decoder(model):
        name = trunk_name(model) or model.base_model_prefix
        # OPT's head, MBart's and TrOCR's ask the decoder inside a trunk that is nothing else.
        inside = [one for one, _ in model.get_submodule(name).named_children()]
        return f"{name}.decoder" if inside == ["decoder"] else name
    decoder = model.get_decoder()
    return next(name for name, module in model.named_modules() if module is decoder)


def head_logits(model: PreTrainedModel, hidden_KLD: Tensor, mask_KL: Tensor | None = None) -> Tensor:
    """The model's logits for given hidden states: (K, L, V) of a language model, (K, C) of a classifier, (K, L, C) of
    a classifier of tokens; of a span head, C are start and end."""
    with answered(model, hidden_KLD):
        if not is_encoder_decoder(model):
            output = model(inputs_embeds=hidden_KLD, attention_mask=mask_KL)
            spans = "start_logits" in output
            return torch.stack([output.start_logits, output.end_logits], -1) if spans else output.logits
        encoded = BaseModelOutput(last_hidden_state=hidden_KLD)
        if model.get_output_embeddings() is not None:
            return model(encoder_outputs=encoded, decoder_inputs_embeds=hidden_KLD).logits
        return model(input_ids=_ended(model, hidden_KLD, mask_KL), encoder_outputs=encoded).logits


def picture_logits(model: PreTrainedModel, hidden_KPD: Tensor, grid: tuple[int, int] | None, *, pooled: bool) -> Tensor:
    """(K, P, D) → (K, C): logits of a model of pictures for given hidden states, on a ``grid`` where it has one."""
    states = hidden_KPD.transpose(1, 2).unflatten(2, grid) if grid else hidden_KPD
    with answered(model, states, pooled=pooled):
        return model(pixel_values=states).logits


def sound_logits(model: PreTrainedModel, hidden_KLD: Tensor, *, pooled: bool) -> Tensor:
    """Logits of a model of sounds for given hidden states: (K, C) of a classifier, (K, L, C) of one of frames."""
    with answered(model, hidden_KLD, pooled=pooled):
        return model(hidden_KLD).logits


def _ended(model: PreTrainedModel, hidden_KLD: Tensor, mask_KL: Tensor | None) -> Tensor:
    """(K, L): ids in which an end-of-text token marks the last real position, where these classifiers look for it."""
    eos = model.config.eos_token_id
    ids_KL = torch.full(hidden_KLD.shape[:2], eos + 1, device=hidden_KLD.device)
    last_K = ids_KL.new_full((len(ids_KL),), ids_KL.shape[1]) if mask_KL is None else mask_KL.sum(1)
    return ids_KL.scatter(1, last_K[:, None] - 1, eos)


def positions_read(model: PreTrainedModel, width: int) -> str:
    """Which hidden states of a row a classifier's head reads: "first", "last" or "all".

    Asked of the head itself: the gradient of its logits is nonzero at just those positions.
    """
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    hidden_13D = torch.randn(1, 3, width, generator=generator).to(like.device, like.dtype).requires_grad_()
    with evaluating(model), torch.enable_grad():
        logits = head_logits(model, hidden_13D, torch.ones(1, 3, dtype=torch.long, device=like.device))
        (grad_13D,) = torch.autograd.grad(logits.square().sum(), hidden_13D)
    read = (grad_13D[0].abs().sum(-1) > 0).tolist()
    return {(True, False, False): "first", (False, False, True): "last"}.get(tuple(read), "all")
