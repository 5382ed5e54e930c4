"""The methods of a run as one: what they ask of the model together, and one adaptation made of theirs.

Each method attaches at one seam. Methods at different seams combine (LoRA and trained norms, a soft prompt and LoRA);
two at the same seam, or one that must be alone, are refused with the reason. They are applied from the weights outward,
and saved one folder each, under the method's name, so that PEFT opens the parts that it knows.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.methods import METHODS
from luthier.models.modes import batch_norms, statistics
from luthier.types import Adaptation, Finding, Refused, Solved

if TYPE_CHECKING:
    from luthier.methods.common import MethodOptions
    from luthier.models.backbone import Backbone

ORDER = ("weights", "linear", "residual", "attention", "embedding", "output")
WEIGHTS_TYPE = "WEIGHTS"


class Several:
    """What asks the same of each of its ``parts``."""

    @property
    def parts(self) -> Iterable[Any]:
        raise NotImplementedError

    def beside(self, base: Path) -> None:
        for one in self.parts:
            one.beside(base)

    def positions(self, backbone: Backbone) -> int:
        """How many of the model's positions they take from the text."""
        return sum(one.positions(backbone) for one in self.parts)

    def lasting(self, steps: int) -> None:
        for one in self.parts:
            one.lasting(steps)

    def load_kwargs(self) -> dict[str, Any]:
        return {key: value for one in self.parts for key, value in one.load_kwargs().items()}


@dataclass(frozen=True)
class Methods(Several):
    """Name → options, as the recipe has them."""

    options: Mapping[str, MethodOptions]

    @property
    def parts(self) -> Iterable[MethodOptions]:
        return self.options.values()

    @property
    def name(self) -> str:
        return "+".join(self.options)

    @property
    def whole(self) -> bool:
        """Whether what is saved is a whole model."""
        return all(options.whole for options in self.options.values())

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the recipe that suit them; where two disagree, the lower: the more careful learning rate."""
        found: dict[str, Any] = {}
        for name, options in self.options.items():
            for key, value in {**METHODS.load(name).DEFAULTS, **options.defaults()}.items():
                found[key] = min(found.get(key, value), value)
        return found

    def conflicts(self) -> list[Finding]:
        """What of this combination means nothing, and why."""
        if len(self.options) == 1:
            return []
        found = [(options.alone, name) for name, options in self.options.items() if options.alone]
        seams: dict[str, str] = {}
        for name, options in self.options.items():
            if options.seam in seams and not options.alone:
                found.append((f"`{seams[options.seam]}` and `{name}` both work at the same place of a model", name))
            seams.setdefault(options.seam, name)
        mend = "take one of them, or methods that work at different places (`lora` and `freeze`, `prompt` and `lora`)"
        return [Finding("method.combination", f"method:{name}", reason, mend) for reason, name in found]

    def needs(self, objective_needs: str) -> str:
        (needs, *others) = {options.needs(objective_needs) for options in self.options.values()}
        assert not others, "methods that need less than the objective are refused in a combination"
        return needs

    @property
    def builds_on(self) -> list[str]:
        """The runs that it needs."""
        return [path for options in self.options.values() for key in options.paths for path in vars(options)[key]]

    def digest(self) -> str:
        """sha256 of the adapters of other runs that it builds on, none of which may change beneath it."""
        found = hashlib.sha256()
        for options in self.options.values():
            for path in options.located([path for key in options.paths for path in vars(options)[key]]):
                for file in sorted(
                    [*path.glob("final/adapter_model.safetensors"), *path.glob("adapter_model.safetensors")]
                ):
                    found.update(file.read_bytes())
        return found.hexdigest()

    def _ordered(self) -> list[tuple[str, MethodOptions]]:
        return sorted(self.options.items(), key=lambda item: ORDER.index(item[1].seam))

    def adapt(self, backbone: Backbone) -> Adaptation:
        """Raises Refused with what each of them refuses."""
        made: list[Adaptation] = []
        findings: list[Finding] = []
        for name, options in self._ordered():
            try:
                made.append(METHODS.load(name).adapt(backbone, options))
            except Refused as refused:
                findings += refused.findings
        if findings:
            raise Refused(*findings)
        if len(made) == 1:
            return made[0]
        weights = {one.method for one in made if self.options[one.method].seam == "weights"}
        return combined(backbone, self.name, {one.method: one for one in made}, weights)

    def attach(self, backbone: Backbone, folder: Path) -> Solved | None:
        """Put what was saved back on the base model; the fitted classifier of a method that has one."""
        solved = None
        own = weights_of(backbone.model)  # as they are called without an adapter
        places = {name: folder if len(self.options) == 1 else folder / name for name in self.options}
        for name, options in self._ordered():
            if not options.whole:
                solved = METHODS.load(name).attach(backbone, places[name])
        for name, options in self.options.items():
            if options.whole:  # the last, so that what adapters ask of the model is asked of it in one dtype
                attach_weights(own, places[name])
        return solved

    def unmergeable(self) -> list[Finding]:
        """Why what was saved can't be folded into the weights of the model, where it can't."""
        if self.whole or any(options.alone for options in self.options.values()):
            what = f"a `{self.name}` run has nothing to merge"
            return [Finding("export.merged", "method", what, "its `final` folder is what there is to use")]
        mend = "use it with its base model: `luthier predict`, or `luthier.load`"
        bent = [(name, options.nonlinear) for name, options in self.options.items() if options.nonlinear]
        return [Finding("export.merged", f"method:{name}", why, mend, "it is not linear") for name, why in bent]

    def fold(self, backbone: Backbone) -> None:
        """Fold what `attach` put into the model into its weights, and take the added layers out."""
        for name, options in self._ordered():
            if not options.whole:
                METHODS.load(name).fold(backbone)


def combined(backbone: Backbone, name: str, made: Mapping[str, Adaptation], weights: set[str]) -> Adaptation:
    """One of several, each saved in the folder of its key; those in ``weights`` as the model's own numbers."""
    parameters: dict[str, Any] = {}
    known: set[int] = set()
    for one in made.values():
        parameters |= {name: p for name, p in one.parameters.items() if id(p) not in known}
        known |= {id(p) for p in one.parameters.values()}
    bases, merges = [one.base for one in made.values()], {key: one.merge for key, one in made.items()}
    linear = all(merge is not None or key in weights for key, merge in merges.items())

    @contextmanager
    def base() -> Iterator[None]:
        with ExitStack() as stack:
            for switch in bases:
                stack.enter_context(switch())  # type: ignore[misc]
            yield

    def merge() -> None:
        for fold in merges.values():
            if fold is not None:
                fold()

    def save(folder: Path) -> None:
        for key, one in made.items():
            if key in weights:
                _save_weights(folder / key, backbone, one)
            else:
                one.save(folder / key)

    mixed = next((one for one in made.values() if one.mixing is not None), Adaptation("", {}, save))
    penalties, tells = (
        _together([one.penalty for one in made.values()]),
        _together([one.told for one in made.values()]),
    )
    return Adaptation(
        name, parameters, save, base=None if None in bases else base, merge=merge if linear else None,
        members=mixed.members, mixing=mixed.mixing, mixing_of=mixed.mixing_of,
        penalty=penalties and (lambda: reduce(add, penalties())),
        after_step=_together([one.after_step for one in made.values()]),
        told=tells and (lambda: dict(ChainMap(*tells()))),
        state={name: tensor for one in made.values() for name, tensor in one.state.items()},
        batch_norms={name: layer for one in made.values() for name, layer in one.batch_norms.items()},
    )  # fmt: skip


def _together(calls: Sequence[Callable[..., Any] | None]) -> Callable[..., Any] | None:
    """One that calls all that are there and returns what they return; None where none is."""
    there = [call for call in calls if call is not None]
    return (lambda *given: [call(*given) for call in there]) if there else None


def _save_weights(folder: Path, backbone: Backbone, adaptation: Adaptation) -> None:
    """Weights of the model itself that trained beside an adapter, under the names that they have without one."""
    from luthier.methods.common import by_file_name, save_adapter

    tensors = adaptation.parameters | statistics(adaptation.batch_norms)
    save_adapter(folder, backbone, {"peft_type": WEIGHTS_TYPE}, by_file_name(tensors), {})


def weights_of(model: nn.Module) -> dict[str, Any]:
    """Parameters and statistics of a model, by name."""
    return dict(model.named_parameters()) | statistics(batch_norms(model.named_modules()))


def attach_weights(own: Mapping[str, Any], folder: Path) -> None:
    from luthier.methods.common import by_file_name, read_adapter, restore

    tensors, parameters = read_adapter(folder)[1], by_file_name(own)
    places = {name: p for name, p in parameters.items() if name in tensors}
    for parameter in (place for place in places.values() if place.is_floating_point()):
        parameter.data = parameter.data.float()  # as it was trained, in a model that is held in bf16
    restore(places, tensors)
