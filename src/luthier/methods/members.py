"""Trained adapters of other runs as members of a new model: found, compared, and put in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from luthier.methods.bottleneck import CHILD, Spec
from luthier.methods.common import CONFIG, by_file_name, read_adapter, restore
from luthier.models.backbone import Backbone
from luthier.types import Finding, Refused

TYPE = {"adapter": "BOTTLENECK", "fusion": "ADAPTER_FUSION"}
"""``peft_type`` of what PEFT does not know, and so refuses to open."""


@dataclass(frozen=True)
class Member:
    """An adapter of a finished run, under the name that it gets here."""

    name: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def spec(self) -> Spec:
        (spec,) = specs(self.config, self.folder).values()
        return spec

    def renamed(self) -> dict[str, Tensor]:
        """Its numbers under the name that it gets here, without its head."""
        (old,) = self.config["members"]
        mine, theirs = f".{CHILD}.{self.name}.", f".{CHILD}.{old}."
        return {n.replace(theirs, mine): tensor for n, tensor in self.tensors.items() if theirs in n}

    def put(self, backbone: Backbone) -> None:
        """Its numbers into the adapter of its name; its head stays behind."""
        named = by_file_name(dict(backbone.named_parameters()))
        restore({n: p for n, p in named.items() if f".{CHILD}.{self.name}." in n}, self.renamed())


def find_members(paths: Sequence[Path]) -> list[Member]:
    """The single adapters of finished runs. Raises Refused with everything that is wrong with them."""
    findings: list[Finding] = []
    found: list[Member] = []
    for path in paths:
        folder = _of_a_role(path / "final" if (path / "final").is_dir() else path)
        if not (folder / CONFIG).is_file():
            what = (
                "there is no finished run of `method: adapter` alone here" if path.is_dir() else "there is no such run"
            )
            near = sorted({p.parents[1].name for p in path.parent.glob(f"*/final/{CONFIG}")})
            mend = f"runs beside it: {', '.join(near)}" if near else "train it first with `method: adapter`"
            findings.append(Finding("run.missing", str(path), what, mend))
            continue
        config, tensors = read_adapter(folder)
        if config.get("peft_type") != TYPE["adapter"] or len(config.get("members", ())) != 1:
            kind = "a stack" if len(config.get("members", ())) > 1 else str(config.get("peft_type")).lower()
            what, mend = f"this run holds {kind}, not one bottleneck adapter", "give runs of `method: adapter`"
            findings.append(Finding("adapter.kind", str(path), what, mend))
            continue
        found.append(Member(_name(path, [member.name for member in found]), folder, config, tensors))
    if findings:
        raise Refused(*findings)
    return found


def _of_a_role(folder: Path) -> Path:
    """The folder itself, or the one in it of the only role that trained, where that has a bottleneck adapter."""
    if (folder / CONFIG).is_file():
        return folder
    inside = [one.parent for one in folder.glob(f"*/{CONFIG}")]
    return inside[0] if len(inside) == 1 else folder


def _name(path: Path, taken: list[str]) -> str:
    """The run's name, made fit for a module's; a number where two are alike."""
    base = member_name(path)
    name, number = base, 2
    while name in taken or name == "default":
        name, number = f"{base}-{number}", number + 1
    return name


def member_name(path: Path) -> str:
    """A run's folder as a key of a ModuleDict: no dots, and none of the names that a module has itself."""
    name = path.resolve().name.replace(".", "_")
    return f"{name}-run" if name in dir(nn.ModuleDict) or name == "training" else name


def specs(config: dict[str, Any], folder: Path) -> dict[str, Spec]:
    """The adapters that a config tells of. Raises Refused where it can't be one of ours."""
    try:
        return {
            str(name): Spec(**(spec | {"blocks": tuple(int(i) for i in spec["blocks"])}))
            for name, spec in config["members"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        what = f"this adapter's config can't be read ({error})"
        raise Refused(Finding("adapter.unreadable", str(folder), what, "give the `final` folder of a run")) from None


def check_bases(backbone: Backbone, members: Sequence[Member]) -> None:
    """Raises Refused for each member that was trained on other weights: its numbers would mean nothing here.

    A backbone without weights, as plan has it, has no fingerprint to compare.
    """
    findings = [
        other_base(member.folder, str(member.config.get("base_model_name_or_path")), backbone)
        for member in members
        if backbone.fingerprint and member.config.get("base") != backbone.fingerprint
    ]
    if findings:
        raise Refused(*findings)


def other_base(folder: Path, trained_on: str, backbone: Backbone) -> Finding:
    """What lies in ``folder`` was learned beside other weights than these."""
    what = f"it was trained on {trained_on}, and the weights of {backbone.name} differ from those"
    return Finding("adapter.base", str(folder), what, "use the base model that it was trained on")


def check_alike(members: Sequence[Member]) -> None:
    """Raises Refused where members differ in kind, size or blocks: they would not stand at the same places."""
    first, findings = members[0], []
    for member in members[1:]:
        for what in ("kind", "size", "blocks"):
            mine, theirs = vars(member.spec)[what], vars(first.spec)[what]
            if mine != theirs:
                said = f"in {what} it is {mine}, and {first.name} is {theirs}"
                mend = "train them with the same `adapter:` section"
                findings.append(Finding("adapter.alike", str(member.folder), said, mend, "they can't be fused"))
    if findings:
        raise Refused(*findings)
