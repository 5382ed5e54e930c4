"""Bottleneck adapters in a model: the layer, the places where it stands, and which of several are in force.

    δ(x) = s · W_up f(W_down x)                              (Houlsby et al. 2019, arXiv 1902.00751)

| kind | reads | changes |
|---|---|---|
| houlsby | h, what a self-attention or a feed-forward gives | h ← h + δ(h), before the residual sum |
| pfeiffer | y, what the block gives | post-norm: y = LN(u) ← LN(u + δ(y)); pre-norm: y ← y + δ(y) |
| parallel | x, what the feed-forward takes | h ← h + δ(x)           (He et al. 2022, arXiv 2110.04366) |

Pfeiffer et al. 2020 (arXiv 2005.00247) write the post-norm form LN(δ(LN(h + r)) + h + r); u = h + r is what the norm
takes. The layers are children of the modules that they follow, joined by forward hooks: no name of the base changes,
and nothing is wrapped. Houlsby's dropout of h comes after δ here, before it in other libraries; they agree in
evaluation.

Axes: T tokens of a batch flattened, D hidden width, M bottleneck, K rows, L longest row, N adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from luthier.models.backbone import Backbone
from luthier.types import Batch, Finding, Refused

Kind = Literal["houlsby", "pfeiffer", "parallel"]
CHILD, FUSED = "adapter", "adapter_fusion"
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spec:
    """The shape of one adapter. ``blocks`` are those that have it, counted from 0."""

    kind: Kind
    size: int
    activation: str
    scaling: float
    norm: bool
    blocks: tuple[int, ...]
    dropout: float = 0.0


class Bottleneck(nn.Module):
    """δ: (..., D) → (..., D). W_up is 0 at first, so that the model is what it was."""

    def __init__(self, width: int, spec: Spec):
        super().__init__()
        self.norm = nn.LayerNorm(width) if spec.norm else nn.Identity()
        self.down, self.up = nn.Linear(width, spec.size), nn.Linear(spec.size, width)
        self.activation, self.dropout = ACT2FN[spec.activation], nn.Dropout(spec.dropout)
        self.scaling = spec.scaling
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        own = self.down.weight.dtype  # fp32 in a model that is held in bf16
        hidden = self.activation(self.down(self.norm(x.to(own))))
        return (self.scaling * self.up(self.dropout(hidden))).to(x.dtype)


class Fusion(nn.Module):
    """Σ_n p_n V δ_n with p = softmax_n(Q y · K δ_n): (T, D) and N of the same → (T, D) (arXiv 2005.00247, eq. 3).

    V begins as the identity and Q, K near 0, so that fusion begins near the average. ``seen`` keeps p (T, N) where it
    is a list.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width, bias=False)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.eye_(self.value.weight)
        self.seen: list[Tensor] | None = None

    def forward(self, y: Tensor, changes: list[Tensor]) -> Tensor:
        own = self.value.weight.dtype
        delta_TND = torch.stack(changes, dim=-2).to(own)
        scores_TN = (self.key(delta_TND) @ self.query(y.to(own)).unsqueeze(-1)).squeeze(-1)
        p_TN = scores_TN.softmax(-1)
        if self.seen is not None:
            self.seen.append(p_TN.detach().flatten(0, -2))
        return (p_TN.unsqueeze(-2) @ self.value(delta_TND)).squeeze(-2).to(y.dtype)


@dataclass
class Composition:
    """Which adapters are in force: ``active`` one over the other, or fused; or one for each row of a batch.

    The model's hooks ask it at each call, so switching costs nothing.
    """

    members: dict[str, Spec]
    active: list[str] = field(default_factory=list)
    off: bool = False
    owners: Tensor | None = None

    @contextmanager
    def base(self) -> Iterator[None]:
        """The model as it was, bit for bit."""
        before, self.off = self.off, True
        try:
            yield
        finally:
            self.off = before

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """These adapters, the first one lowest. Raises Refused for one that is not there."""
        unknown = [name for name in names if name not in self.members]
        if unknown:
            mend = f"there are: {', '.join(self.members)}"
            raise Refused(
                *(Finding("adapter.unknown", name, "this model has no such adapter", mend) for name in unknown)
            )
        before, self.active = self.active, list(names)
        try:
            yield
        finally:
            self.active = before

    @contextmanager
    def rows(self, chosen_K: Tensor, batch: Batch) -> Iterator[None]:
        """Row k through the member with index ``chosen_K[k]`` alone; -1 is none."""
        total = batch["input_ids"].numel()
        owners_T = torch.full((total,), -1, device=chosen_K.device)
        for chosen, start, length in zip(chosen_K, batch["starts"].tolist(), batch["lengths"].tolist(), strict=True):
            owners_T[start : start + length] = chosen
        self.owners = owners_T
        try:
            yield
        finally:
            self.owners = None

    def changes(self, here: nn.ModuleDict, fusion: Fusion | None) -> list[Change]:
        """What is added at a place, one after the other."""
        if self.off:
            return []
        if self.owners is not None:
            return [lambda x: self._by_row(x, here)]
        active = [here[name] for name in self.active if name in here]
        if fusion is not None and active:
            return [lambda x: fusion(x, [one(x) for one in active])]
        return list(active)

    def _by_row(self, x: Tensor, here: nn.ModuleDict) -> Tensor:
        assert self.owners is not None
        x_TD = x.flatten(0, -2)
        change_TD = torch.zeros_like(x_TD)
        for index, name in enumerate(self.members):
            at = (self.owners == index).nonzero().squeeze(1)
            if len(at) and name in here:
                change_TD = change_TD.index_copy(0, at, here[name](x_TD[at]))
        return change_TD.view_as(x)


@dataclass(frozen=True)
class Place:
    """A module that an adapter follows, in which form, and (parallel) the module whose input it reads."""

    module: str
    form: Literal["output", "norm", "parallel"]
    reads: str = ""


def places(backbone: Backbone, spec: Spec) -> list[Place]:
    """Where the adapter stands in this model. Raises Refused where a block lacks what the kind needs."""
    seams, found = backbone.seams, []
    for index in spec.blocks:
        block = seams.blocks[index]
        inside = [sublayer for sublayer in seams.sublayers if sublayer.block == index]
        forward = [sublayer for sublayer in inside if sublayer.kind == "feed_forward"]
        if spec.kind == "pfeiffer":
            norm = backbone.closing_norms.get(block)
            found.append(Place(norm, "norm") if norm else Place(block, "output"))
        elif not forward or (spec.kind == "houlsby" and len(inside) < 2):
            what = f"{block} has no plain attention and feed-forward to follow"
            raise Refused(Finding("method.no-target", "adapter.kind", what, "use `adapter.kind: pfeiffer`"))
        elif spec.kind == "houlsby":
            found += [Place(sublayer.last, "output") for sublayer in inside if sublayer.kind != "cross_attention"]
        else:
            found += [Place(sublayer.last, "parallel", sublayer.first) for sublayer in forward]
    return found


def install(backbone: Backbone, members: dict[str, Spec], *, fused: bool = False) -> Composition:
    """Put adapters into the model, at first none in force, on the device of the modules that they follow."""
    composition = Composition(dict(members))
    standing: dict[Place, list[str]] = {}
    for name, spec in members.items():
        for place in places(backbone, spec):
            standing.setdefault(place, []).append(name)
    for place, names in standing.items():
        module = backbone.model.get_submodule(place.module)
        here = nn.ModuleDict({name: Bottleneck(backbone.stream_width, members[name]) for name in names})
        fusion = Fusion(backbone.stream_width) if fused else None
        _join(backbone, place, module, here, fusion, composition)
    backbone.adapters = composition
    return composition


def _join(
    backbone: Backbone, place: Place, module: nn.Module, here: nn.ModuleDict, fusion: Fusion | None, which: Composition
) -> None:
    device = backbone.device
    module.add_module(CHILD, here.to(device))
    if fusion is not None:
        module.add_module(FUSED, fusion.to(device))
    if place.form == "parallel":
        taken: list[Tensor] = []
        first = backbone.model.get_submodule(place.reads)
        first.register_forward_pre_hook(lambda _, args: taken.__setitem__(slice(None), [args[0]]))

        def beside(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            x = taken.pop()
            for change in which.changes(here, fusion):
                output = output + change(x)
            return output

        module.register_forward_hook(beside)
    elif place.form == "norm":

        def under_norm(norm: nn.Module, args: Any, output: Tensor) -> Tensor:
            summed = args[0]
            for change in which.changes(here, fusion):
                summed = summed + change(output)
                output = norm.forward(summed)  # the norm itself, without this hook
            return output

        module.register_forward_hook(under_norm)
    else:

        def after(_: nn.Module, __: Any, output: Any) -> Any:
            hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            for change in which.changes(here, fusion):
                hidden = hidden + change(hidden)
            return hidden if rest is None else (hidden, *rest)

        module.register_forward_hook(after)
