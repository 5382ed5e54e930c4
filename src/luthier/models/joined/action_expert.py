"""A composed model with an action expert: a small transformer that turns noise into a chunk of actions.

Each of the H actions of a chunk is a token: its A noisy numbers and the time, embedded. In each layer the tokens attend
to each other, then to the hidden states of the row (SmolVLA's alternation, Shukor et al. 2025, arXiv 2506.01844,
section 3.1).

    model = ComposedForActionFlow.from_pretrained(folder)
    velocity = model(input_ids=..., pixel_values=..., actions=noise, time=torch.zeros(1)).logits

Axes: K rows, L columns, E width of hidden states, H actions of a chunk, A numbers of an action, N = H · A, W width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from luthier.models.joined.composed import ComposedConfig, ComposedModel, ComposedPreTrainedModel, mask_of

HEAD_WIDTH = 32
SHORTEST, LONGEST = 4e-3, 4.0  # periods of the sines that a time becomes (Black et al. 2024, appendix B)


class ActionExpert(nn.Module):
    """``v(x, τ, h)``, (K, H, A): the velocity of a noisy chunk."""

    def __init__(self, given: int, chunk: int, size: int, width: int, layers: int):
        super().__init__()
        self.chunk, self.size, self.width = chunk, size, width
        self.read = nn.Sequential(nn.LayerNorm(given), nn.Linear(given, width))
        self.embed = nn.Linear(size, width)
        self.places = nn.Embedding(chunk, width)
        self.time = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        heads = max(1, width // HEAD_WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.write = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))

    def forward(self, noisy_KHA: Tensor, time_K: Tensor, hidden_KLE: Tensor, mask_KL: Tensor) -> Tensor:
        seen_KLW = self.read(hidden_KLE)
        moment_KHW = sines(time_K, self.width)[:, None].expand(-1, self.chunk, -1).to(seen_KLW.dtype)
        tokens_KHW = self.time(torch.cat([self.embed(noisy_KHA.to(seen_KLW.dtype)), moment_KHW], dim=-1))
        tokens_KHW = tokens_KHW + self.places.weight
        for layer in self.layers:
            tokens_KHW = layer(tokens_KHW, seen_KLW, memory_key_padding_mask=mask_KL == 0)
        return self.write(tokens_KHW)


def sines(time_K: Tensor, width: int) -> Tensor:
    """(K, W): a time in [0, 1] as sines and cosines of periods from ``SHORTEST`` to ``LONGEST``."""
    at = torch.linspace(0, 1, width // 2, device=time_K.device, dtype=torch.float32)
    angles = time_K.float()[:, None] * (2 * math.pi / (SHORTEST * (LONGEST / SHORTEST) ** at))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ComposedForActionFlow(ComposedPreTrainedModel):
    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.model = ComposedModel(config)
        width = max(HEAD_WIDTH, self.model.fusion.width // 2 // HEAD_WIDTH * HEAD_WIDTH)
        self.action_expert = ActionExpert(
            self.model.fusion.width, config.action_chunk, config.action_size, width, config.action_layers
        )
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None, actions: Tensor | None = None, time: Tensor | None = None, **inputs: Any,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """``actions`` (K, N) noisy, at ``time`` (K,): their velocity (K, N) as ``logits``."""
        mask_KL = mask_of(input_ids, inputs_embeds, attention_mask)
        hidden_KLE = self.model(
            input_ids=input_ids, attention_mask=mask_KL, inputs_embeds=inputs_embeds, **inputs
        ).last_hidden_state
        assert actions is not None
        assert time is not None
        return SequenceClassifierOutput(logits=self.velocity(hidden_KLE, mask_KL, actions, time))

    def velocity(self, hidden_KLE: Tensor, mask_KL: Tensor, actions_KN: Tensor, time_K: Tensor) -> Tensor:
        noisy_KHA = actions_KN.unflatten(1, (self.config.action_chunk, self.config.action_size))
        return self.action_expert(noisy_KHA, time_K, hidden_KLE, mask_KL).flatten(1)
