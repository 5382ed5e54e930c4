"""Roles and seams: where the parts of a model are, found by structure and never by the model's name.

Roles of a linear layer: ``attention`` and ``feed_forward`` inside a block, ``cross_attention`` beside ``attention``
where a decoder reads its source, and finer ones that a leaf's name tells (``query``, ``key``, ``value``, ``output``,
``qkv``, ``gate``, ``up``, ``down``). ``head`` is what lies outside the trunk. Seams: ``embedding`` (the input
embeddings), ``linear`` (the linear layers of the blocks), ``residual`` (the blocks and their sublayers, which add to
the residual stream), ``output`` (the head). A model of several stacks, an encoder-decoder or towers, has the blocks of
each, in the order in which they run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from luthier.models.blocks import blocks_of, trunk_name
from luthier.models.stacks import stacks
from luthier.types import Finding, Refused

# What a projection is called in the field; the right side holds leaf names as transformers' modules spell them.
LEAVES = {
    "query": {"query", "q_proj", "q_lin", "q", "query_proj", "linear_q"},
    "key": {"key", "k_proj", "k_lin", "k", "key_proj", "linear_k"},
    "value": {"value", "v_proj", "v_lin", "v", "value_proj", "linear_v"},
    "qkv": {"c_attn", "Wqkv", "qkv_proj", "query_key_value", "in_proj", "qkv"},
    "output": {"o_proj", "out_proj", "out_lin", "Wo", "o", "linear_out"},
    "gate": {"gate_proj", "wi_0"},
    "up": {"up_proj", "fc1", "c_fc", "lin1", "wi", "Wi", "wi_1", "gate_up_proj", "intermediate_dense", "linear1"},
    "down": {"down_proj", "fc2", "lin2", "wo", "output_dense", "linear2"},
}
# What the attention to a source is called in the field, in parts of names.
CROSS = ("cross", "encoder_att", "encdec")


@dataclass(frozen=True)
class Linear:
    """A linear layer of a block: its full name, the block it is in and the roles it answers to."""

    name: str
    block: int
    roles: frozenset[str]
    stack: str = ""


@dataclass(frozen=True)
class Sublayer:
    """An attention or the feed-forward of a block: ``first`` takes its input, ``last`` gives its output."""

    block: int
    kind: str
    first: str
    last: str


@dataclass(frozen=True)
class Seams:
    """A model's places to attach to. Names are those of ``model.named_modules()``.

    ``stacks`` has the stack of each block, by the names of ``models/stacks.py``, or "" where the model has but one.
    """

    trunk: str
    embedding: str | None
    blocks: list[str]
    linears: list[Linear]
    head: list[str]
    stacks: list[str] = field(default_factory=list)
    sublayers: list[Sublayer] = field(default_factory=list)

    @property
    def feed_forwards(self) -> list[Sublayer]:
        return [sublayer for sublayer in self.sublayers if sublayer.kind == "feed_forward"]

    def linears_by_role(self, targets: list[str]) -> list[Linear]:
        """The linear layers that any of ``targets`` names: a role, `all`, a leaf name, or a regular expression.

        Raises Refused with the nearest names when a target matches nothing.
        """
        findings, chosen = [], {}
        for target in targets:
            matched = [linear for linear in self.linears if _matches(linear, target)]
            if not matched:
                findings.append(self._nothing(target))
            chosen.update({linear.name: linear for linear in matched})
        if findings:
            raise Refused(*findings)
        return list(chosen.values())

    def _nothing(self, target: str) -> Finding:
        known = sorted({"all"} | {role for linear in self.linears for role in linear.roles})
        leaves = sorted({linear.name.rpartition(".")[2] for linear in self.linears})
        near = difflib.get_close_matches(target, known + leaves, n=3, cutoff=0.4)
        mend = f"nearest: {', '.join(near)}" if near else f"roles here: {', '.join(known)}; layers: {', '.join(leaves)}"
        return Finding(
            "method.no-target", f"targets:{target}", f"the target `{target}` matches no layer of this model", mend
        )


def _matches(linear: Linear, target: str) -> bool:
    leaf = linear.name.rpartition(".")[2]
    if target in ("all", "all-linear") or target in linear.roles or target == leaf:
        return True
    try:
        return re.fullmatch(target, linear.name) is not None
    except re.error:
        return False


def find_seams(model: PreTrainedModel) -> Seams:
    """Name the parts of ``model``."""
    trunk = trunk_name(model)
    names = {id(module): name for name, module in model.named_modules()}
    roots = {stack: names[id(module)] for stack, module in stacks(model).items()} or {"": trunk}
    blocks = [(block, stack) for stack, root in roots.items() for block in blocks_of(model.get_submodule(root), root)]
    linears, sublayers = placed(model, blocks)
    embedding = names.get(id(_embedding(model)))
    # Some encoder-decoders have no module around their stacks: the head is then what stands beside these.
    inside = {trunk} if trunk else {name.partition(".")[0] for name in (*roots.values(), embedding) if name}
    head = [name for name, _ in model.named_children() if name not in inside] if trunk or stacks(model) else []
    output = names.get(id(model.get_output_embeddings()), "")
    if "." in output and output.partition(".")[0] in inside:  # of a tower, or of the model around it, which writes
        head = [output]
    named = [block for block, _ in blocks]
    return Seams(trunk, embedding, named, linears, head, [stack for _, stack in blocks], sublayers)


def placed(model: PreTrainedModel, blocks: list[tuple[str, str]]) -> tuple[list[Linear], list[Sublayer]]:
    """The linear layers and the sublayers of these (block, stack), counted from 0."""
    linears = []
    for index, (block, stack) in enumerate(blocks):
        for name, module in model.get_submodule(block).named_modules(prefix=block):
            if isinstance(module, nn.Linear | Conv1D) or is_convolution(module):
                linears.append(Linear(name, index, _roles(model, block, name), stack))
    found = (_sublayers(model, block, index, linears) for index, (block, _) in enumerate(blocks))
    return linears, [sublayer for some in found for sublayer in some]


def _embedding(model: PreTrainedModel) -> nn.Module | None:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:  # a convolutional network
        return None


def width_of(module: nn.Module) -> int:
    """How many numbers a linear layer, or a convolution of one place, gives."""
    base = module.get_submodule("base_layer") if hasattr(module, "base_layer") else module  # wrapped by PEFT
    weight = base.get_parameter("weight")
    return weight.shape[1 if isinstance(base, Conv1D) else 0]


def is_convolution(module: nn.Module) -> bool:
    """One that mixes all its channels: a linear layer of what lies under its kernel."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def _roles(model: PreTrainedModel, block: str, name: str) -> frozenset[str]:
    leaf = name.rpartition(".")[2]
    owner, inside_attention, cross = name, False, False
    while owner != block:
        owner = owner.rpartition(".")[0]
        kind = type(model.get_submodule(owner)).__name__.lower()
        if owner != block and "attention" in kind:
            inside_attention = True
            cross = cross or any(part in f"{owner.rpartition('.')[2].lower()} {kind}" for part in CROSS)
    broad = "attention" if inside_attention else "feed_forward"
    fine = {role for role, leaves in LEAVES.items() if leaf in leaves}
    if broad == "attention":
        fine -= {"gate", "up", "down"}
        if not fine:
            fine = {"output"}  # what attention projects last, whatever it is called (`dense`, `c_proj`)
    elif not fine & {"gate", "up", "down"}:
        fine = set()
    return frozenset(fine | {broad} | ({"cross_attention"} if cross else set()))


MOST_FEED_FORWARD = 3  # gate, up, down; more are experts, of which each token meets a few


def _sublayers(model: PreTrainedModel, block: str, index: int, linears: list[Linear]) -> Iterator[Sublayer]:
    """Each attention of a block, and its feed-forward where it has one (not a mixture of experts)."""
    inside = [linear for linear in linears if linear.block == index]
    attentions: dict[str, list[Linear]] = {}
    for linear in inside:
        if "attention" in linear.roles:
            attentions.setdefault(_attention_of(model, block, linear.name), []).append(linear)
    for members in attentions.values():
        outputs = [linear for linear in members if "output" in linear.roles]
        named = [linear for linear in outputs if linear.name.rpartition(".")[2] in LEAVES["output"]]
        outputs = named or outputs  # WavLM has a gate of its positions in there too
        if outputs:
            kind = "cross_attention" if "cross_attention" in outputs[-1].roles else "attention"
            yield Sublayer(index, kind, members[0].name, outputs[-1].name)
    members = [linear for linear in inside if "feed_forward" in linear.roles]
    if 2 <= len(members) <= MOST_FEED_FORWARD:
        yield Sublayer(index, "feed_forward", members[0].name, members[-1].name)


def _attention_of(model: PreTrainedModel, block: str, name: str) -> str:
    """The outermost module inside ``block`` that holds ``name`` and is an attention."""
    parts = name.removeprefix(f"{block}.").split(".")
    for end in range(1, len(parts)):
        owner = ".".join([block, *parts[:end]])
        if "attention" in type(model.get_submodule(owner)).__name__.lower():
            return owner
    return block
