"""Places of a picture that a text changes before they are pooled (FiLM: Perez et al. 2018, arXiv 1709.07871).

    w = norm(mean_t h_t)
    v_p ← v_p + W₂ GELU(W₁ ((1 + γ(w)) · norm(v_p) + β(w)))        in each layer, at each place p
    h'_t = W [h_t ; max_p v_p ; mean_p v_p]

γ and β are linear. Each place is multiplied by what is asked for while it is still a place of its own, as in the
baseline of BabyAI (Chevalier-Boisvert et al. 2019, arXiv 1810.08272, appendix D), with a layer for each place instead
of convolutions, so that any image tower fits. A place is as wide as the narrower of both towers has it: w alone is of
the text's width. A row without pictures is joined with zeros.

Axes: I pictures, P hidden states of one, K rows, L columns, M hidden states of all pictures of a row, D width of
pictures, E of text, F of a place, G of both its poolings.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.fusion.common import ByWidth, Projector, Sizes, Text, by_row
from luthier.options import Options as Section


class Options(Section):
    layers: int = Field(2, ge=1, description="in each of which the text changes the picture's places")


class Fusion(nn.Module):
    in_row = False
    writes = False

    def __init__(self, options: Options, sizes: Sizes):
        super().__init__()
        self.width = sizes.text
        width = min(sizes.pictures, sizes.text)
        self.project = Projector(sizes.pictures, width, 1, ByWidth)
        self.told_norm = nn.LayerNorm(sizes.text)
        self.layers = nn.ModuleList(Modulated(width, sizes.text) for _ in range(options.layers))
        self.mix = ByWidth(sizes.text + 2 * width, sizes.text)

    def forward(
        self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor, lengths_I: Tensor | None = None
    ) -> Tensor:
        inputs.pop("places_KL", None)
        mask_KL = inputs.get("attention_mask")
        hidden_KLE = text(**inputs).last_hidden_state
        told_KE = self.told_norm(_mean(hidden_KLE, mask_KL))
        projected_IPF = self.project(pictures_IPD).to(hidden_KLE.dtype)
        seen_KMF, mask_KM = by_row(projected_IPF, rows_I, len(hidden_KLE), lengths_I)
        for layer in self.layers:
            seen_KMF = layer(seen_KMF, told_KE)
        most_KF = seen_KMF.masked_fill(~mask_KM[..., None], float("-inf")).amax(1)
        pooled_KG = torch.cat([most_KF, _mean(seen_KMF, mask_KM)], dim=-1)
        pooled_KG = torch.where(mask_KM.any(1, keepdim=True), pooled_KG, 0)
        return self.mix(torch.cat([hidden_KLE, pooled_KG[:, None].expand(-1, hidden_KLE.shape[1], -1)], dim=-1))


class Modulated(nn.Module):
    """A layer at each place, scaled and shifted by a text's vector: (K, M, F), (K, E) → (K, M, F)."""

    def __init__(self, width: int, told: int):
        super().__init__()
        self.norm, self.film = nn.LayerNorm(width), ByWidth(told, 2 * width)
        self.up, self.down = ByWidth(width, 2 * width), ByWidth(2 * width, width)

    def forward(self, seen_KMF: Tensor, told_KE: Tensor) -> Tensor:
        scale_K1F, shift_K1F = self.film(told_KE)[:, None].chunk(2, dim=-1)
        changed_KMF = (1 + scale_K1F) * self.norm(seen_KMF) + shift_K1F
        return seen_KMF + self.down(nn.functional.gelu(self.up(changed_KMF)))


def _mean(values_KLE: Tensor, mask_KL: Tensor | None) -> Tensor:
    """(K, E): of the columns that the mask names."""
    if mask_KL is None:
        return values_KLE.mean(1)
    mask_KL1 = mask_KL[..., None].to(values_KLE.dtype)
    return (values_KLE * mask_KL1).sum(1) / mask_KL1.sum(1).clamp(min=1)
