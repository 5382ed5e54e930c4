"""Late similarity: pictures and texts as vectors in one space, alike where they belong together.

    s(v, t) = cos(W_v mean_p v_p, W_t pool(h))

CLIP's way (Radford et al. 2021, arXiv 2103.00020, figure 3), from any two towers: both stay apart until their vectors
are compared, so that either can be indexed by itself. Nothing is joined in a row: it serves `task: match`.

Axes: I pictures, P hidden states of one, K texts, D width of pictures, E of text, S of the shared space.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from luthier.fusion.common import Projector, Sizes
from luthier.options import Options as Section


class Options(Section):
    width: int = Field(256, gt=0, description="of the space that both are projected into")
    layers: int = Field(1, ge=1, le=4, description="linear layers of each projection, with GELU between")
    picture: Literal["mean", "first"] = Field("mean", description="which hidden states of a picture make its vector")


class Fusion(nn.Module):
    in_row = False
    writes = False

    def __init__(self, options: Options, sizes: Sizes):
        super().__init__()
        self.width, self.reads = options.width, options.picture
        self.project_image = Projector(sizes.pictures, options.width, options.layers)
        self.project_text = Projector(sizes.text, options.width, options.layers)

    def image(self, states_IPD: Tensor) -> Tensor:
        """(I, S)."""
        return self.project_image(states_IPD.mean(1) if self.reads == "mean" else states_IPD[:, 0])

    def text(self, pooled_KE: Tensor) -> Tensor:
        """(K, S)."""
        return self.project_text(pooled_KE)
