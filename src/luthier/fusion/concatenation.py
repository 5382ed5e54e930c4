"""Vectors joined: each hidden state of the text with the mean of the row's pictures.

    h'_t = W₂ GELU(W₁ [h_t ; P mean_p v_p])

`layers: 0` leaves out W₁ and W₂: a linear head on vectors that are only joined can't compare the two, as a question
such as "is it red?" needs. `when: late` joins the states of both towers; `when: early` is to lay a picture's hidden
states, each through one linear layer, into the row before the text tower reads it: `projection` with one layer. A row
without pictures is joined with zeros.

Axes: I pictures, P hidden states of one, K rows, L columns, D width of pictures, E of text.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.fusion import projection
from luthier.fusion.common import Projector, Sizes, Text, mean_by_row, mean_of
from luthier.options import Options as Section


class Options(Section):
    when: Literal["early", "late"] = Field("late", description="token sequences joined, or vectors")
    layers: int = Field(2, ge=0, le=4, description="late: linear layers on the joined vectors, with GELU between")


def Fusion(options: Options, sizes: Sizes) -> nn.Module:
    return (
        projection.Fusion(projection.Options.model_validate({"layers": 1}), sizes)
        if options.when == "early"
        else Late(sizes, options.layers)
    )


class Late(nn.Module):
    in_row = False
    writes = False

    def __init__(self, sizes: Sizes, layers: int):
        super().__init__()
        joined = 2 * sizes.text
        self.width = sizes.text if layers else joined
        self.project = Projector(sizes.pictures, sizes.text, 1)
        self.mix = Projector(joined, sizes.text, layers) if layers else nn.Identity()

    def forward(
        self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor, lengths_I: Tensor | None = None
    ) -> Tensor:
        inputs.pop("places_KL", None)
        hidden_KLE = text(**inputs).last_hidden_state
        mean_ID = mean_of(pictures_IPD, lengths_I)
        pooled_KE = mean_by_row(self.project(mean_ID), rows_I, len(hidden_KLE)).to(hidden_KLE.dtype)
        return self.mix(torch.cat([hidden_KLE, pooled_KE[:, None].expand_as(hidden_KLE)], dim=-1))
