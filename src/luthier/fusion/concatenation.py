"""Vectors joined: each hidden state of the text with the mean of the row's pictures, for the head to read.

    h'_t = [h_t ; W mean_p v_p]

`when: late` joins the vectors of the two towers; `when: early` is to lay a picture's hidden states, each through one
linear layer, into the row before the text tower reads it: `projection` with one layer. A row without pictures is joined
with a learned vector.

Axes: I pictures, P hidden states of one, K rows, L columns, D width of pictures, E of text.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.fusion import projection
from luthier.fusion.common import Drawn, Projector, Sizes, Text, mean_by_row
from luthier.options import Options as Section


class Options(Section):
    when: Literal["early", "late"] = Field("late", description="token sequences joined, or vectors")


def Fusion(options: Options, sizes: Sizes) -> nn.Module:  # noqa: N802 - it makes one of two
    return projection.Fusion(projection.Options(layers=1), sizes) if options.when == "early" else Late(sizes)


class Late(Drawn):
    in_row = False

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.width = 2 * sizes.text
        self.project = Projector(sizes.pictures, sizes.text, 1)
        self.none = nn.Parameter(torch.zeros(sizes.text))

    def draw(self) -> None:
        nn.init.zeros_(self.none)

    def forward(self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor) -> Tensor:
        inputs.pop("places_KL", None)
        hidden_KLE = text(**inputs).last_hidden_state
        rows = len(hidden_KLE)
        pooled_KE = mean_by_row(self.project(pictures_IPD.mean(1)), rows_I, rows).to(hidden_KLE.dtype)
        has_K = torch.zeros(rows, dtype=torch.bool, device=rows_I.device).index_fill(0, rows_I, True)
        pooled_KE = torch.where(has_K[:, None], pooled_KE, self.none.to(hidden_KLE.dtype))
        return torch.cat([hidden_KLE, pooled_KE[:, None].expand_as(hidden_KLE)], dim=-1)
