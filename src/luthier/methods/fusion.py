"""AdapterFusion: attention over the outputs of trained, frozen adapters, in each layer (Pfeiffer et al. 2021).

    y + Σ_n p_n V δ_n(y),   p = softmax_n(Q y · K δ_n(y))            (arXiv 2005.00247, section 3.2)

Q, K and V train (and a new head); the members stay as they are. It begins near the members' average. How much each
member weighs, by layer, is kept in the result and shown in the report. ‖V − I‖² is held small as in the paper's code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from luthier.methods.adapter import adaptation
from luthier.methods.adapter import attach as attach_adapters
from luthier.methods.bottleneck import FUSED, Fusion, install
from luthier.methods.common import MethodOptions
from luthier.methods.members import check_alike, check_bases, find_members
from luthier.models.backbone import Backbone
from luthier.models.modes import evaluating
from luthier.types import Adaptation, Batch, Finding, Refused

DEFAULTS = {"learning_rate": 5e-4}
PICTURES, TEXT = "tokens of pictures", "tokens of text"


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "residual"
    nonlinear: ClassVar[str] = "an activation stands inside each bottleneck: no matrix of the model does the same"
    listed: ClassVar[str] = "runs"
    paths: ClassVar[tuple[str, ...]] = ("runs",)
    runs: list[str] = Field(default_factory=list, description="run folders of `method: adapter`, at least two")
    regularization: float = Field(0.01, ge=0, description="weight of the squared distance of V from the identity")


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    """Raises Refused for fewer than two runs, missing ones, and those of another base, size or layers."""
    if len(options.runs) < 2:
        what, mend = f"there is nothing to fuse: {len(options.runs)} run(s)", "`method: {fusion: [runs/a, runs/b]}`"
        raise Refused(Finding("recipe.missing-key", "fusion.runs", what, mend))
    members = find_members(options.located(options.runs))
    check_bases(backbone, members)
    check_alike(members)
    composition = install(backbone, {member.name: member.spec for member in members}, fused=True)
    composition.active = list(composition.members)
    for member in members:
        member.put(backbone)
    trained = {n: p for n, p in backbone.named_parameters() if f".{FUSED}." in n}
    layers = [module for _, module in backbone.named_modules() if isinstance(module, Fusion)]
    return adaptation(
        "fusion", backbone, composition, trained, members=list(composition.members),
        mixing=lambda batch: mixing(backbone, layers, batch),
        mixing_of={
            kind: partial(mixing, backbone, layers, pictures=kind == PICTURES)
            for kind in (PICTURES, TEXT) if backbone.pictures is not None and backbone.reads_text
        },
        penalty=(lambda: _from_identity(layers, options.regularization)) if options.regularization else None,
    )  # fmt: skip


def _from_identity(layers: list[Fusion], weight: float) -> Tensor:
    """weight · Σ over layers of ‖V − I‖²."""
    distances = [(v - torch.eye(len(v), device=v.device)).square().sum() for v in (one.value.weight for one in layers)]
    return weight * torch.stack(distances).sum()


@torch.no_grad()
def mixing(backbone: Backbone, layers: list[Fusion], batch: Batch, pictures: bool | None = None) -> Tensor:
    """How much each member weighs in each layer, a mean over each row's tokens: (K, layers, N).

    With ``pictures`` over those that stand for pictures, or that don't, alone; NaN where a row has none.
    """
    for layer in layers:
        layer.seen = []
    try:
        with evaluating(backbone.model):
            backbone.hidden(batch)
        seen = [torch.cat(layer.seen or []) for layer in layers]
    finally:
        for layer in layers:
            layer.seen = None
    reading = set(backbone.model.get_encoder().modules()) if backbone.encoder_decoder else set()
    own_K = batch["starts"].tolist()
    kept_T = None if pictures is None else _kept(backbone, batch, pictures)
    of_layers = [
        torch.stack(
            [
                (p_TN[start:end] if kept_T is None else p_TN[start:end][kept_T[own : own + end - start]]).mean(0)
                for (start, end), own in zip(_spans(backbone, batch, source=layer in reading), own_K, strict=True)
            ]
        )
        for layer, p_TN in zip(layers, seen, strict=True)
    ]
    return torch.stack(of_layers, dim=1)


def _kept(backbone: Backbone, batch: Batch, pictures: bool) -> Tensor:
    """(T,): which tokens are of the kind; of text are all where pictures are no tokens."""
    places_T = backbone.picture_places(batch)
    if places_T is None:
        places_T = torch.zeros_like(batch["input_ids"].flatten(), dtype=torch.bool)
    return places_T if pictures else ~places_T


def _spans(backbone: Backbone, batch: Batch, *, source: bool) -> list[tuple[int, int]]:
    """First and one past the last token of each row, where a layer sees it: an encoder reads the source.

    Virtual tokens stand before each row of what is read, and are not counted.
    """
    starts_K, lengths_K = batch["starts"], batch["lengths"]
    rows_K = torch.arange(len(starts_K), device=starts_K.device)
    if source:
        mask_KS = batch["attention_mask"]
        starts_K, lengths_K = rows_K * mask_KS.shape[1] + mask_KS.argmax(1), mask_KS.sum(1)
    if source or not backbone.encoder_decoder:
        starts_K = starts_K + (rows_K + 1) * backbone.prompt_length
    return list(zip(starts_K.tolist(), (starts_K + lengths_K).tolist(), strict=True))


def attach(backbone: Backbone, folder: Path) -> None:
    """Put the members and their fusion into their base model."""
    attach_adapters(backbone, folder)
