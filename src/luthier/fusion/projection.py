"""Pictures as tokens: their hidden states, projected, stand in the row where its placeholders are.

    row = [e(t₁) ... W v₁ ... W v_P ... e(t_n)]

LLaVA's way (Liu et al. 2023, arXiv 2304.08485, section 4.1), with an encoder as well as with a decoder. ``tokens``
pools the P hidden states of a picture to fewer, by the mean of neighbours, or by learned queries that attend to them
(``resample``; Alayrac et al. 2022, arXiv 2204.14198, section 3.1, with one layer). ``pool`` lays so many
neighbours end to end, zeros behind the last, before they are projected: a sound's frames are many (Ma et al. 2024,
arXiv 2402.08846, section 3.1, with 5).

Axes: I pictures, P hidden states of one, Q tokens made of one, K rows, L columns, D width of pictures, E of text.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from luthier.fusion.common import Drawn, Projector, Sizes, Text
from luthier.options import Options as Section

SOUND_POOL = 5


class Options(Section):
    layers: int = Field(2, ge=1, le=4, description="linear layers of the projection, with GELU between")
    tokens: int | None = Field(None, gt=0, description="that stand for a picture; default: all its hidden states")
    resample: bool = Field(False, description="learned queries attend to a picture, instead of a mean of neighbours")
    pool: int | None = Field(
        None, gt=0, description="neighbouring hidden states joined to one token; default: 5 of a sound, 1 of a picture"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Options:
        if self.pool is not None and (self.tokens is not None or self.resample):
            raise ValueError("`pool` joins neighbours, `tokens` and `resample` make a fixed number: give one of them")
        return self


class Fusion(nn.Module):
    in_row = True
    writes = True

    def __init__(self, options: Options, sizes: Sizes):
        super().__init__()
        counted = options.tokens is not None or options.resample
        self.pool = options.pool or (SOUND_POOL if sizes.sounds and not counted else 1)
        self.most = options.tokens
        self.width = sizes.text
        self.project = Projector(sizes.pictures * self.pool, sizes.text, options.layers)
        queries = min(options.tokens or sizes.tokens, sizes.tokens)
        self.resampler = Resampler(sizes.text, queries) if options.resample else None

    def tokens(self, states: int) -> int:
        """How many tokens a picture of so many hidden states is."""
        if self.resampler is not None:
            return len(self.resampler.queries)
        return min(self.most or states, states) if self.pool == 1 else -(-states // self.pool)

    def of_one_length(self, states_IPD: Tensor) -> Tensor:
        """(I, Q, E): the tokens of pictures with as many hidden states."""
        if self.resampler is not None:
            return self.resampler(self.project(states_IPD))
        tokens = self.tokens(states_IPD.shape[1])
        if self.pool > 1:
            filled = nn.functional.pad(states_IPD, (0, 0, 0, tokens * self.pool - states_IPD.shape[1]))
            states_IPD = filled.reshape(len(states_IPD), tokens, self.pool * states_IPD.shape[2])
        elif states_IPD.shape[1] != tokens:
            pooled_IDQ = nn.functional.adaptive_avg_pool1d(states_IPD.transpose(1, 2), tokens)
            states_IPD = pooled_IDQ.transpose(1, 2)
        return self.project(states_IPD)

    def made(self, pictures_IPD: Tensor, lengths_I: Tensor | None) -> Tensor:
        """(N, E): the tokens of all pictures, end to end."""
        if lengths_I is None:
            return self.of_one_length(pictures_IPD).flatten(0, 1)
        found: dict[int, Tensor] = {}
        for length in sorted(set(lengths_I.tolist())):
            at = (lengths_I == length).nonzero()[:, 0]
            found |= zip(at.tolist(), self.of_one_length(pictures_IPD[at, :length]), strict=True)
        return torch.cat([found[one] for one in range(len(lengths_I))])

    def forward(
        self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor, lengths_I: Tensor | None = None
    ) -> Tensor:
        embeds_KLE, places_KL = inputs["inputs_embeds"], inputs.pop("places_KL")
        made_NE = self.made(pictures_IPD, lengths_I).to(embeds_KLE.dtype)
        inputs["inputs_embeds"] = embeds_KLE.masked_scatter(places_KL[..., None], made_NE)
        return text(**inputs).last_hidden_state


class Resampler(Drawn):
    """Q learned queries that attend to a picture: (I, P, E) → (I, Q, E)."""

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(tokens, width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.draw()

    def draw(self) -> None:
        nn.init.normal_(self.queries, std=self.queries.shape[1] ** -0.5)

    def forward(self, states_IPE: Tensor) -> Tensor:
        queries_IQE = self.queries.expand(len(states_IPE), -1, -1)
        keys_IPE, values_IPE = self.key(states_IPE), self.value(states_IPE)
        return self.output(nn.functional.scaled_dot_product_attention(queries_IQE, keys_IPE, values_IPE))
