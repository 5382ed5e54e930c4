"""Text that looks at pictures: gated blocks between those of a decoder, or a small encoder on top of an encoder.

In a decoder (Flamingo: Alayrac et al. 2022, arXiv 2204.14198, section 3.2), before each ``every``-th of its blocks:

    y = x + tanh(α) · attention(norm(x), pictures)
    x' = y + tanh(β) · feed_forward(norm(y))

α and β start at 0, so that the model begins as the decoder that it was. A token looks at all the pictures of its row,
wherever they are named (in the paper: at the last one before it). A row without pictures is left exactly as it was.

On an encoder n layers, in each of which a token attends to the other tokens, then to the row's pictures: the language
side of LXMERT's cross-modality layers (Tan and Bansal 2019, arXiv 1908.07490, section 2.1), pre-norm.

Axes: I pictures, P hidden states of one, K rows, L columns, M hidden states of all pictures of a row, D width of
pictures, E of text, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.fusion.common import Drawn, Inside, Projector, Sizes, Text, by_row
from luthier.options import Options as Section

HEAD_WIDTH = 64
SEEN = "luthier_seen"
"""The keyword under which a decoder hands pictures down to its blocks, as it does with all that it does not know."""


class Options(Section):
    layers: int = Field(2, ge=1, description="on top of an encoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="in them")
    every: int = Field(1, ge=1, description="in a decoder: a gated block before each n-th of its blocks")


def Fusion(options: Options, sizes: Sizes) -> nn.Module:
    return Gates(sizes, options.every) if sizes.blocks else OnTop(sizes, options)


class Gates(Inside):
    """Gated blocks in a decoder."""

    in_row = False
    writes = True

    def __init__(self, sizes: Sizes, every: int):
        super().__init__()
        self.width, self.every = sizes.text, every
        self.project = Projector(sizes.pictures, sizes.text, 1)
        self.layers = nn.ModuleList(Gated(sizes.text) for _ in range(0, sizes.blocks, every))

    def enter(self, blocks: Sequence[nn.Module]) -> None:
        for layer, block in zip(self.layers, blocks[:: self.every], strict=True):
            assert isinstance(layer, Gated)
            block.register_forward_pre_hook(layer.before, with_kwargs=True)
        for at, block in enumerate(blocks):
            if at % self.every:
                block.register_forward_pre_hook(_without, with_kwargs=True)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """With gates that let through, as they will be once they have learned: at first no picture is seen."""
        gates = [gate for layer in self.layers for name, gate in layer.named_parameters() if name.startswith("gate")]
        before = [gate.detach().clone() for gate in gates]
        with torch.no_grad():
            for gate in gates:
                gate.fill_(1.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for gate, value in zip(gates, before, strict=True):
                    gate.copy_(value)

    def forward(
        self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor, lengths_I: Tensor | None = None
    ) -> Tensor:
        inputs.pop("places_KL", None)
        rows = len(inputs["inputs_embeds"])
        if len(rows_I):
            inputs[SEEN] = by_row(self.project(pictures_IPD), rows_I, rows, lengths_I)
        return text(**inputs).last_hidden_state


def _without(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given.pop(SEEN, None)
    return args, given


class Gated(Drawn):
    """tanh(α) · attention to pictures, then tanh(β) · feed-forward, both before a block: (K, L, E) → (K, L, E)."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(heads for heads in range(1, max(1, width // HEAD_WIDTH) + 1) if width % heads == 0)
        self.norm, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.output = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.gate, self.gate_ff = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.draw()

    def draw(self) -> None:
        nn.init.zeros_(self.gate)
        nn.init.zeros_(self.gate_ff)

    def before(
        self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the block is given instead of its own input, where its row has pictures."""
        seen = given.pop(SEEN, None)
        if seen is None:
            return args, given
        if args:
            return (self(args[0], *seen), *args[1:]), given
        return args, given | {"hidden_states": self(given["hidden_states"], *seen)}

    def forward(self, x_KLE: Tensor, seen_KME: Tensor, mask_KM: Tensor) -> Tensor:
        any_K11 = mask_KM.any(1)[:, None, None]
        mask_K11M = (mask_KM | ~any_K11[:, 0])[:, None, None]
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, self.norm(x_KLE)), (self.key, seen_KME), (self.value, seen_KME))
        )
        key, value = key.to(query.dtype), value.to(query.dtype)
        found_KHLE = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask_K11M)
        y_KLE = x_KLE + torch.tanh(self.gate) * self.output(found_KHLE.transpose(1, 2).flatten(2))
        thought_KLE = self.down(nn.functional.gelu(self.up(self.norm_ff(y_KLE))))
        y_KLE = y_KLE + torch.tanh(self.gate_ff) * thought_KLE
        return torch.where(any_K11, y_KLE, x_KLE).to(x_KLE.dtype)


class OnTop(nn.Module):
    """A small encoder on top of two encoders."""

    in_row = False
    writes = False

    def __init__(self, sizes: Sizes, options: Options):
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

    def forward(
        self, text: Text, inputs: dict[str, Any], pictures_IPD: Tensor, rows_I: Tensor, lengths_I: Tensor | None = None
    ) -> Tensor:
        inputs.pop("places_KL", None)
        mask_KL = inputs.get("attention_mask")
        pads_KL = None if mask_KL is None else mask_KL == 0
        hidden_KLE = text(**inputs).last_hidden_state
        projected_IPE = self.project(pictures_IPD).to(hidden_KLE.dtype)
        seen_KME, mask_KM = by_row(projected_IPE, rows_I, len(hidden_KLE), lengths_I)
        mask_KM = mask_KM | ~mask_KM.any(1, keepdim=True)  # a row without pictures looks at zeros
        for layer in self.layers:
            hidden_KLE = layer(hidden_KLE, seen_KME, tgt_key_padding_mask=pads_KL, memory_key_padding_mask=~mask_KM)
        return hidden_KLE
