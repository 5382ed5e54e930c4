"""Methods by role: to each part of a model (vision, text, audio, projector, head) its own, at its own learning rate.

Each role is a ``Methods`` that is shown its part of the model alone (``Backbone.within``), so that no method knows of
roles. What a role's method makes is saved in a folder of the role's name. A role that is named nowhere is frozen, but
for what in it is new: that trains, as with every method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.methods.combine import Methods, Several, attach_weights, combined, weights_of
from luthier.types import Adaptation, Finding, Refused

if TYPE_CHECKING:
    from luthier.methods.common import MethodOptions
    from luthier.models.backbone import Backbone

FROZEN = "frozen"
ONCE = {"embedding": "the rows' embeddings", "attention": "the attention of the whole model"}
"""Seams at which a method changes what all roles share."""


@dataclass
class Tower:
    """What a role trains with: its methods, none where it is frozen, and the highest learning rate, None: theirs."""

    methods: Methods | None
    learning_rate: float | None = None

    def told(self, *, located: bool = False) -> Any:
        """As a recipe has it; ``located``: with the paths of other runs in full."""
        if self.methods is None:
            return FROZEN
        sections = {name: options.model_dump() for name, options in self.methods.options.items()}
        for name, options in self.methods.options.items() if located else ():
            for key in options.paths:
                sections[name][key] = [str(path.resolve()) for path in options.located(vars(options)[key])]
        return sections | ({"learning_rate": self.learning_rate} if self.learning_rate is not None else {})


@dataclass
class ByRole(Several):
    """Role → its methods. It answers what ``Methods`` does."""

    towers: dict[str, Tower]
    notes: list[Finding] = field(default_factory=list)
    summary: list[dict[str, Any]] = field(default_factory=list)
    """Of each role of the model, once it was met: method, learning rate, numbers trained and numbers it came with."""

    @property
    def training(self) -> dict[str, Methods]:
        return {role: tower.methods for role, tower in self.towers.items() if tower.methods is not None}

    @property
    def parts(self) -> Iterable[Methods]:
        return self.training.values()

    @property
    def options(self) -> Mapping[str, MethodOptions]:
        """None has a section of its own in a recipe: they stand under ``method``."""
        return {}

    @property
    def name(self) -> str:
        """Without roles in which but the new numbers train, as with every method, where there are others."""
        named = {role: one for role, one in self.training.items() if not _only_new(one)} or self.training
        return "+".join(f"{role}-{one.name.replace('+', '-')}" for role, one in named.items())

    @property
    def whole(self) -> bool:
        return all(one.whole for one in self.training.values())

    @property
    def defaults(self) -> dict[str, Any]:
        """The highest learning rate of all; of other keys what any of them asks for."""
        found: dict[str, Any] = {}
        for one in self.training.values():
            found |= one.defaults
        rates = [self.towers[role].learning_rate or _default_rate(one) for role, one in self.training.items()]
        return found | ({"learning_rate": max(rates)} if rates else {})

    def told(self, *, located: bool = False) -> dict[str, Any]:
        """``method`` as a recipe has it."""
        return {role: tower.told(located=located) for role, tower in self.towers.items()}

    def conflicts(self) -> list[Finding]:
        found = [replace(one, where=f"method.{role}") for role, own in self.training.items() for one in own.conflicts()]
        if not self.training:
            mend = "give at least one role a method"
            found.append(Finding("method.combination", "method", "every role is frozen: nothing would train", mend))
        for role, own in self.training.items():
            for name, options in own.options.items():
                if options.whole_model:
                    mend = "name it alone, or use `lora`, `adapter`, `freeze` or `full` here"
                    place = f"method.{role}.{name}"
                    found.append(Finding("method.combination", place, options.whole_model, mend))
        for seam, what in ONCE.items():
            roles = [r for r, own in self.training.items() if any(one.seam == seam for one in own.options.values())]
            if len(roles) > 1:
                said = f"{' and '.join(f'`{role}`' for role in roles)} would both change {what}"
                found.append(Finding("method.combination", f"method.{roles[1]}", said, "give it to one role"))
        return found

    def needs(self, objective_needs: str) -> str:
        return objective_needs

    @property
    def builds_on(self) -> list[str]:
        return [path for one in self.training.values() for path in one.builds_on]

    def digest(self) -> str:
        return hashlib.sha256("".join(one.digest() for one in self.training.values()).encode()).hexdigest()

    def resolve(self, backbone: Backbone, new: Callable[[], Methods], rate: Callable[[float], float]) -> None:
        """Meet the model: what is new trains by ``new()``, each role has its rate, and ``notes`` tell what is frozen.

        ``rate`` makes the rate of a role without one of its own from its method's. Raises Refused for roles that the
        model does not have, and for a new one that shall be frozen.
        """
        findings: list[Finding] = []
        for role in self.towers:
            try:
                with backbone.within(role):
                    pass
            except Refused as refused:
                findings += refused.findings
        fresh = [role for role in backbone.roles if any(map(backbone.roles[role].holds, backbone.fresh))]
        for role in fresh:
            if role in self.towers and self.towers[role].methods is None:
                what, mend = f"`{role}` is new: frozen it would stay as it was drawn", "leave it out, or use `full`"
                findings.append(Finding("method.combination", f"method.{role}", what, mend))
        if findings:
            raise Refused(*findings)
        for role in (role for role in fresh if role not in self.towers):
            self.towers[role] = Tower(new())
            what = f"`{role}` is new in part or in whole: that trains too"
            self.notes.append(Finding("method.new-role", "method", what, severity="note"))
        for role, tower in self.towers.items():
            if tower.methods is not None and tower.learning_rate is None:
                tower.learning_rate = rate(_default_rate(new() if backbone.is_new(role) else tower.methods))
        for role in backbone.roles.keys() - self.training.keys():
            what = f"`{role}` is frozen: its {backbone.numbers(role):,} numbers stay as they are"
            self.notes.append(Finding("method.frozen-role", "method", what, severity="note"))

    def adapt(self, backbone: Backbone) -> Adaptation:
        """Raises Refused with what each of them refuses."""
        from luthier.methods.common import save_whole

        made: dict[str, Adaptation] = {}
        findings: list[Finding] = []
        numbers = {role: backbone.numbers(role) for role in backbone.roles}
        for role, own in self.training.items():
            try:
                with backbone.within(role):
                    made[role] = _within(backbone, role, own.adapt(backbone))
            except Refused as refused:
                findings += [replace(one, where=f"method.{role}: {one.where}") for one in refused.findings]
        if findings:
            raise Refused(*findings)
        self.summary = [self._summed(role, made.get(role), count) for role, count in numbers.items()]
        weights = {role for role, own in self.training.items() if own.whole}
        one = combined(backbone, self.name, made, weights)
        rates = {name: self.towers[role].learning_rate for role, some in made.items() for name in some.parameters}
        save = save_whole(backbone) if self.whole else one.save
        return replace(one, save=save, rates={name: rate for name, rate in rates.items() if rate is not None})

    def _summed(self, role: str, made: Adaptation | None, numbers: int) -> dict[str, Any]:
        trained = sum(parameter.numel() for parameter in made.parameters.values()) if made else 0
        method = self.training[role].name if made else FROZEN
        rate = self.towers[role].learning_rate if made else None
        return {"role": role, "method": method, "learning_rate": rate, "trained": trained, "numbers": numbers}

    def attach(self, backbone: Backbone, folder: Path) -> None:
        """Put what was saved back on the base model."""
        own = weights_of(backbone.model)
        backbone.roles  # noqa: B018 - by the names of the model as it came
        for role, methods in self.training.items():
            if not methods.whole:
                with backbone.within(role):
                    methods.attach(backbone, folder / role)
        for role, methods in self.training.items():
            if methods.whole:
                attach_weights(own, folder / role)

    def unmergeable(self) -> list[Finding]:
        if self.whole:
            what = f"a `{self.name}` run has nothing to merge"
            return [Finding("export.merged", "method", what, "its `final` folder is what there is to use")]
        bent = [(role, one) for role, own in self.training.items() if not own.whole for one in own.unmergeable()]
        return [replace(one, where=f"method.{role}") for role, one in bent]

    def fold(self, backbone: Backbone) -> None:
        for role, own in self.training.items():
            with backbone.within(role):
                own.fold(backbone)


def _only_new(methods: Methods) -> bool:
    options = methods.options.get("freeze")
    return len(methods.options) == 1 and options is not None and options.model_dump() == type(options)().model_dump()


def _default_rate(methods: Methods) -> float:
    return float(methods.defaults["learning_rate"])


def _within(backbone: Backbone, role: str, made: Adaptation) -> Adaptation:
    """The same, whose later calls see that role alone too."""

    def save(folder: Path) -> None:
        with backbone.within(role):
            made.save(folder)

    def merge() -> None:
        with backbone.within(role):
            assert made.merge is not None
            made.merge()

    return replace(made, save=save, merge=None if made.merge is None else merge)
