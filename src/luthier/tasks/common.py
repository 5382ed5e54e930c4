"""What every task promises, and what it may ask of a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from luthier.evaluate.intervals import Metrics
from luthier.models.backbone import Backbone
from luthier.types import Example, Features, Finding

Encoder = Callable[[Example], list[Features]]


class Ask(Protocol):
    """A model that answers: its outputs for examples, and the backbone for those that generate."""

    backbone: Backbone

    def outputs(self, examples: Sequence[Example]) -> list[Any]: ...


class Task(Protocol):
    """A person's word for what is wanted. The engine never sees one."""

    formats: tuple[str, ...]
    """Formats of rows that this task takes, the first being the one to suggest."""
    labels: Sequence[str]
    writes_from_source: bool
    """Whether a row has a source and a target apart, which an encoder-decoder can learn from."""
    splits: bool
    """Whether it can cut a row that is too long into several (`overlong: split`)."""
    sample_options: dict[str, Any]
    """Options of ``answer`` for the report's samples."""
    metric: str
    """The one that says what `best` means, where the recipe names no other."""
    metrics: Mapping[str, bool]
    """Every metric that ``plain`` gives, the loss too, and whether higher is better."""

    def pieces(self, examples: Sequence[Example]) -> list[Example]:
        """The rows to split into train and eval, where one row may be a whole book."""

    def study(self, train: Sequence[Example], evaluation: Sequence[Example]) -> list[Finding]:
        """Learn from the rows what the model must know (labels), and say what is wrong with them."""

    def unknown(self, examples: Sequence[Example]) -> list[Finding]:
        """What of these rows the model, as ``study`` or ``from_config`` left it, can't know."""

    def objective(self) -> str: ...

    def config(self) -> dict[str, Any]:
        """What goes into the model's config: label names and ids."""

    def from_config(self, config: Any) -> None:
        """Know again, from a saved model's config, what ``study`` learned."""

    def encoder(self, backbone: Backbone, limit: int, overlong: str) -> Encoder:
        """A row as features: ``input_ids``, what its loss needs, ``weight`` and ``full_length`` (before any cut)."""

    def plain(self, outputs: list[Any], rows: Sequence[Features]) -> dict[str, float]: ...

    def with_intervals(self, outputs: list[Any], rows: Sequence[Features]) -> Metrics: ...

    def generated(self, ask: Ask, examples: Sequence[Example]) -> Metrics:
        """Metrics of answers that are written for it, at the end of a run: slow, and empty for most tasks."""

    def parse(self, given: Any) -> Example:
        """An input as a person types it (a string, or a row) as an Example without a target."""

    def answer(self, ask: Ask, examples: Sequence[Example], **options: Any) -> list[dict[str, Any]]: ...

    def terminators(self, backbone: Backbone) -> list[int]:
        """The ids of which one must end a supervised answer; none where answers are not tokens."""

    def shown(self, example: Example) -> tuple[str, str]:
        """(input, target) as a reader should see them."""

    def shown_answer(self, answer: dict[str, Any]) -> str: ...

    def decided(self, answer: dict[str, Any]) -> str:
        """What of an answer must differ for it to count as another: a label, without its probability."""

    def right(self, example: Example, answer: dict[str, Any]) -> bool | None:
        """Whether an answer is right, or None where that is no yes or no."""

    def confused(self, outputs: Sequence[Any], rows: Sequence[Features]) -> list[tuple[str, str]] | None:
        """(class, what it was taken for) of everything that was classed; None where answers are no classes."""


@runtime_checkable
class Marks(Protocol):
    """A task whose answers are parts of the text that it is given: the report marks them there."""

    def marks(self, example: Example, answer: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """``target`` and ``after`` (the answer's), each parts of the text as ``{"start", "end", "label"}``."""


@runtime_checkable
class Keeps(Protocol):
    """A task that must know more than a model's config holds: it stands in a file of its own beside the weights."""

    def keep(self, folder: Path) -> None: ...

    def recall(self, folder: Path) -> None:
        """Raises Refused where the file is missing or damaged."""


@runtime_checkable
class Meets(Protocol):
    """A task whose objective depends on the model: it is told where that lies before it is opened."""

    def meet(self, path: str) -> None: ...
