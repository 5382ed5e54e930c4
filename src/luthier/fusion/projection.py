"""Pictures as tokens: their hidden states, projected, stand in the row where its placeholders are.

    row = [e(t₁) ... W v₁ ... W v_P ... e(t_n)]

LLaVA's way (Liu et al. 2023, arXiv 2304.08485, section 4.1), with an encoder as well as with a decoder. ``tokens``
pools the P hidden states of a picture to fewer, by the mean of neighbours, or by learned queries that attend to them
(``resample``; Alayrac et al. 2022, arXiv 2204.14198, section 3.1, with one layer).

Axes: I pictures, P hidden states of one, Q tokens made of one, K rows, L columns, D width of pictures, E of text.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.fusion.common import Drawn, Projector, Sizes, Text
from luthier.options import Options as Section


class Options(Section):
    layers: int = Field(2, ge=1, le=4, description="linear layers of the projection, with GELU between")
    tokens: int | None = Field(None, gt=0, description="that stand for a picture; default: all its hidden states")
    resample: bool = Field(False, description="learned queries attend to a picture, instead of a mean of neighbours")


class Fusion(nn.Module):
    in_row = True
    writes = True

    def __init__(self, options: Options, sizes: Sizes):
        super().__init__()
        self.tokens = min(options.tokens or sizes.tokens, sizes.tokens)
        self.width = sizes.text
        self.project = Projector(sizes.pictures, sizes.text, options.layers)
        self.resampler = Resampler(sizes.text, self.tokens) if options.resample else None

    def made(self, pictures_IPD: Tensor) -> Tensor:
        """(I, Q, E): the tokens of each picture."""
        if self.resampler is not None:
            return self.resampler(self.project(pictures_IPD))
        if pictures_IPD.shape[1] != self.tokens:
            pooled_IDQ = nn.functional.adaptive_avg_pool1d(pictures_IPD.transpose(1, 2), self.tokens)
            pictures_IPD = pooled_IDQ.transpose(1, 2)
        return self.project(pictures_IPD)

    def forward(self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor) -> Tensor:
        embeds_KLE, places_KL = inputs["inputs_embeds"], inputs.pop("places_KL")
        made_IQE = self.made(pictures_IPD).to(embeds_KLE.dtype)
        inputs["inputs_embeds"] = embeds_KLE.masked_scatter(places_KL[..., None], made_IQE)
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
