"""Text that looks at pictures: a small encoder on top of two encoders.

n layers, in each of which a token attends to the other tokens, then to the row's pictures: the language side of
LXMERT's cross-modality layers (Tan and Bansal 2019, arXiv 1908.07490, section 2.1), pre-norm.

Axes: I pictures, P hidden states of one, K rows, L columns, M hidden states of all pictures of a row, D width of
pictures, E of text.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor, nn

from luthier.fusion.common import Projector, Sizes, Text, by_row
from luthier.options import Options as Section

HEAD_WIDTH = 64


class Options(Section):
    layers: int = Field(2, ge=1, description="on top of an encoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="in them")


class Fusion(nn.Module):
    in_row = False

    def __init__(self, options: Options, sizes: Sizes):
        super().__init__()
        self.width = sizes.text
        self.project = Projector(sizes.pictures, sizes.text, 1)
        heads = max(1, sizes.text // HEAD_WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                sizes.text, heads, 4 * sizes.text, options.dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(options.layers)
        )

    def forward(self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor) -> Tensor:
        inputs.pop("places_KL", None)
        mask_KL = inputs.get("attention_mask")
        pads_KL = None if mask_KL is None else mask_KL == 0
        hidden_KLE = text(**inputs).last_hidden_state
        seen_KME, mask_KM = by_row(self.project(pictures_IPD).to(hidden_KLE.dtype), rows_I, len(hidden_KLE))
        mask_KM = mask_KM | ~mask_KM.any(1, keepdim=True)  # a row without pictures looks at zeros
        for layer in self.layers:
            hidden_KLE = layer(hidden_KLE, seen_KME, tgt_key_padding_mask=pads_KL, memory_key_padding_mask=~mask_KM)
        return hidden_KLE
