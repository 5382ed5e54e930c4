"""Roles: which part of a model sees, reads, hears, joins or answers, found by structure and never by the model's name.

| role | is |
|---|---|
| ``vision``, ``text``, ``audio`` | a tower; of a model of one modality, its trunk |
| ``encoder``, ``decoder`` | the stacks of an encoder-decoder |
| ``projector`` | what stands between or beside towers: a fusion, projections into one space, a resampler |
| ``head`` | what lies outside the trunk |

Every parameter has one role. ``Addressed`` is the part of a ``Backbone`` that lets a method see one role alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from luthier.models.blocks import blocks_of
from luthier.models.seams import Linear, Seams, find_seams, placed, width_of
from luthier.models.stacks import stacks
from luthier.types import ROLES, Finding, Refused, nearest

TOWERS = {"image": "vision", "video": "vision"}  # what a stack or a config is called elsewhere, where not by its role
READS = {"pixel_values": "vision", "input_features": "audio", "input_values": "audio"}


@dataclass(frozen=True)
class Role:
    """Names of modules and parameters, whole or up to a dot, and the seams among them."""

    names: tuple[str, ...]
    seams: Seams

    def holds(self, name: str) -> bool:
        return _holds(self.names, name)


def _holds(names: Iterable[str], name: str) -> bool:
    return any(name == held or name.startswith(f"{held}.") for held in names)


class Addressed:
    """The part of a ``Backbone`` that knows its roles. Within one, seams and parameters are those of that role."""

    model: PreTrainedModel
    fresh: set[str]
    _role: str = ""

    @cached_property
    def _whole(self) -> Seams:
        return find_seams(self.model)

    @property
    def seams(self) -> Seams:
        return self.roles[self._role].seams if self._role else self._whole

    @cached_property
    def roles(self) -> dict[str, Role]:
        """Asked before a method changes the model: names are those of the model as it came."""
        return {role: Role(names, _seams_of(self.model, self._whole, names)) for role, names in named(self).items()}

    @property
    def role(self) -> str:
        """The one that a method is shown; "" for the whole model."""
        return self._role

    @contextmanager
    def within(self, role: str) -> Iterator[None]:
        """Show this role alone. Raises Refused, with the nearest name, where the model has no such role."""
        if role not in self.roles:
            what = f"this model has no `{role}`; its roles are {', '.join(self.roles)}"
            raise Refused(Finding("method.no-role", f"method.{role}", what, nearest(role, self.roles)))
        before, self._role = self._role, role
        try:
            yield
        finally:
            self._role = before

    def holds(self, name: str) -> bool:
        """Whether a module or a parameter of this name is shown."""
        return not self._role or self.roles[self._role].holds(name)

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        return ((name, module) for name, module in self.model.named_modules() if self.holds(name))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.model.named_parameters() if self.holds(name))

    def stream_of(self, otherwise: int) -> int:
        """Width of the residual stream of the role that is shown: what its sublayers give; else ``otherwise``."""
        if not self._role or not self.seams.sublayers:
            return otherwise
        return width_of(self.model.get_submodule(self.seams.sublayers[0].last))

    def numbers(self, role: str) -> int:
        """How many numbers a role has."""
        held = self.roles[role].holds
        return sum(parameter.numel() for name, parameter in self.model.named_parameters() if held(name))

    def is_new(self, role: str) -> bool:
        """Whether none of a role's parameters were in the checkpoint."""
        names = [name for name, _ in self.model.named_parameters() if self.roles[role].holds(name)]
        return bool(names) and self.fresh.issuperset(names)


def named(backbone: Addressed) -> dict[str, tuple[str, ...]]:
    """Role → what of the model it is. What no tower holds is the projector's, or an encoder's (see
    ``_joined_by``)."""
    model, towers = backbone.model, _towers(backbone.model)
    head = tuple(backbone._whole.head)
    if backbone._whole.trunk == "" and {"vision", "audio"} & towers.keys() and "encoder" not in towers:
        head = ()  # beside the towers, with no trunk around them: what brings their vectors into one space
    if not towers:
        alone = READS.get(model.main_input_name, "text")
        found = {alone: tuple(_beside(model, "", {*head}))}
    else:
        found = {role: (name,) for role, name in towers.items()}
        outer = {".".join(name.split(".")[:end]) for name in towers.values() for end in range(name.count(".") + 1)}
        for owner in sorted(outer):
            if beside := tuple(_beside(model, owner, outer | {*head, *towers.values()})):
                joins = _joined_by(towers, owner)
                found[joins] = found.get(joins, ()) + beside
    if any(_holds(head, name) for name, _ in model.named_parameters()):
        found["head"] = head
    return {role: found[role] for role in ROLES if role in found}


def _towers(model: PreTrainedModel) -> dict[str, str]:
    """Role → the module: the stacks that are known, or whatever in the trunk is built from a config of its own."""
    names = {id(module): name for name, module in model.named_modules()}
    if known := stacks(model):
        return {TOWERS.get(stack, stack): names[id(module)] for stack, module in known.items()}
    parts = {type(value): key for key in model.config.sub_configs if (value := vars(model.config).get(key)) is not None}
    found: dict[str, str] = {}
    for module in model.base_model.children():
        key = parts.get(type(vars(module).get("config")), "")
        role = TOWERS.get(kind := key.removesuffix("_config"), kind)
        if role in ("vision", "text", "audio"):
            found[role] = names[id(module)]
    return found if len(found) > 1 else {}


def _joined_by(towers: dict[str, str], owner: str) -> str:
    """The role of what stands in ``owner`` beside towers: an encoder's, where no tower that sees is in there too."""
    seen = towers.get("vision")
    apart = seen is None or (owner != "" and not seen.startswith(f"{owner}."))
    return "encoder" if "encoder" in towers and apart else "projector"


def _beside(model: PreTrainedModel, owner: str, known: set[str]) -> Iterator[str]:
    """Modules and parameters right in ``owner`` that are not ``known``."""
    module = model.get_submodule(owner)
    inner = [name for name, _ in (*module.named_children(), *module.named_parameters(recurse=False))]
    for name in (f"{owner}.{one}" if owner else one for one in inner):
        if name not in known:
            yield name


def _seams_of(model: PreTrainedModel, whole: Seams, names: tuple[str, ...]) -> Seams:
    """The seams within: blocks counted from 0; where there are none, every linear layer."""
    inside = partial(_holds, names)
    blocks = [block for block in whole.blocks if inside(block)]
    if blocks:
        at = {whole.blocks.index(block): index for index, block in enumerate(blocks)}
        linears = [replace(one, block=at[one.block]) for one in whole.linears if one.block in at]
        sublayers = [replace(one, block=at[one.block]) for one in whole.sublayers if one.block in at]
    else:
        blocks = [block for name in names for block in _blocks_of(model, name)]
        linears, sublayers = placed(model, [(block, "") for block in blocks])
    if not linears:
        linears = [Linear(name, 0, frozenset()) for name, module in _linear(model, inside)]
    return Seams(
        whole.trunk, whole.embedding if whole.embedding and inside(whole.embedding) else None, blocks, linears,
        [name for name in whole.head if inside(name)], [""] * len(blocks), sublayers,
    )  # fmt: skip


def _blocks_of(model: PreTrainedModel, name: str) -> list[str]:
    return blocks_of(model.get_submodule(name), name) if name in dict(model.named_modules()) else []


def _linear(model: PreTrainedModel, inside: Callable[[str], bool]) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if inside(name) and isinstance(module, nn.Linear | Conv1D):
            yield name, module
