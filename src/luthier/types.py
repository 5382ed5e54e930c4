"""The shared vocabulary: what is passed between the rooms of the house.

Axes in tensor names:  B rows of a batch, T tokens, N supervised positions, D hidden width,
V vocabulary, C classes, K sequences in a packed row.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Message = dict[str, Any]
"""One turn of a conversation: ``{"role": ..., "content": ...}``, with ``tool_calls`` where it has them."""

Features = dict[str, Any]
"""One encoded row: at least ``row`` (its index in the data set), ``input_ids`` and what its loss needs; the
``target_ids`` that an encoder-decoder is to write from them; ``pictures``, the keys of their pixels; ``sounds``, those
of what a model is given of them; ``epoch``, where it is one that is learned."""

Prompt = list[int] | Features
"""What is written from: ids, or a row of them with what stands beside them."""

ROLES = ("vision", "text", "audio", "encoder", "decoder", "projector", "head")
"""What parts of a model are called, in the order in which they are told."""

Picture = Path | bytes
"""A file that holds a picture, or what such a file holds."""


@dataclass(frozen=True)
class Waveform:
    """Samples as data sets on a hub hold them: float32, little-endian, channels interleaved; ``rate`` in Hz, 0 where
    nobody said."""

    samples: bytes
    rate: int
    channels: int = 1


Sound = Path | bytes | Waveform
"""A file that holds a sound, what such a file holds, or its samples."""

Span = tuple[int, int, str]
"""Characters [start, end) of a text, and the name of what they are."""


@dataclass(frozen=True)
class Source:
    """Where a row was read: a file and its line (counted from 1), or its position where there are no lines."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


INLINE = Source("input", 1)
"""The source of a row that was typed or passed in, not read from a file."""


@dataclass(frozen=True)
class Problem:
    """A function that is to be written: its name, and Python that tests it (empty where there is none)."""

    entry_point: str
    tests: str = ""


@dataclass(frozen=True)
class Step:
    """One moment of an episode: which of its ``images`` are seen, the state of what acts, and what it does then.

    ``action`` is a name, or numbers; None where it is asked for.
    """

    images: tuple[int, ...] = ()
    state: tuple[float, ...] | None = None
    action: str | tuple[float, ...] | None = None


@dataclass
class Example:
    """One row after normalising: typed parts, and the place that it came from.

    A task fills the parts that it needs and leaves the others empty.
    """

    source: Source
    text: str | None = None
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None
    label: str | float | list[str] | None = None
    targets: list[str] | None = None
    """What is to be written from ``text``, or matches it: the first is learned, all are references."""
    question: str | None = None
    """What is asked, of ``text`` where there is one."""
    spans: list[Span] | None = None
    """Marked parts of ``text``: where its answers are, or its entities."""
    images: list[Picture] | None = None
    sounds: list[Sound] | None = None
    negatives: list[str] | None = None
    """What does not match ``text``, or the row's picture."""
    negative_images: list[Picture] | None = None
    """Pictures that ``targets`` do not match."""
    translations: dict[str, list[str]] | None = None
    """What a row says, by language; of several texts in one language all are references."""
    steps: list[Step] | None = None
    """An episode that follows ``text``: ``images`` are those of all steps, in order."""
    units: str | None = None
    """What the numbers of states and actions are, where that was told."""
    problem: Problem | None = None
    """How code that goes on from ``text`` is tested."""
    chosen: list[Message] | None = None
    """The turns of an answer to ``messages`` that is liked, or preferred to ``rejected``."""
    rejected: list[Message] | None = None
    """The turns of one that is not."""
    margin: float | None = None
    """By how much ``chosen`` is better, where that was told."""
    worse: list[tuple[list[Message], float | None]] = field(default_factory=list)
    """More answers that ``chosen`` is better than, and by how much."""
    stepwise: list[tuple[str, float | None]] | None = None
    """The steps of ``chosen``, and how right each is, from 0 to 1; None where nobody said."""
    passed_over: int = 0
    """How many more answers the row has, which are as good as ``chosen`` and so no part of a pair."""
    weight: float = 1.0
    entry: int = 0
    """Which of several data sets that were named together it is of."""
    ends: bool = True
    """Whether the text ends here; a piece of a longer one goes on in the next row."""


@dataclass
class Batch:
    """Named tensors, and the rows they came from, so that any failure can name its rows.

    ``tensors`` holds ``input_ids`` and ``position_ids`` (B, T), the layout's own keys (``attention_mask`` of a
    padded batch, ``cu_seq_lens`` of a packed one) and what the objective put there.
    """

    tensors: dict[str, Tensor]
    rows: list[int]
    tokens: int = 0

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def to(self, device: torch.device | str) -> Self:
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        return replace(self, tensors=moved)


@dataclass
class LossTerms:
    """What an objective returns for one micro-batch.

    ``total`` is a SUM over supervised units and ``count`` how many (weights) it sums; the engine alone divides, once an
    optimizer step, by the count over all micro-batches and processes. ``report`` holds (sum, count) pairs
    that are watched and never optimised.
    """

    total: Tensor
    count: float
    report: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Adaptation:
    """What a method made of a model.

    ``parameters`` are the numbers that train, held by identity under the name that ``named_parameters`` gives them.
    Only the engine sets ``requires_grad``. ``base`` is a context in which the model is what it was before the
    method (None where the method changes the weights themselves). ``merge`` folds the method into the weights, for
    methods that are linear. ``save`` writes the final model in the ecosystem's layout. A method that needs no gradient
    gives ``solve(vectors_KD, targets) -> Solved`` and the ``pooling`` that makes one vector of a row: the trunk's
    vectors are computed once and the classifier is fitted from them in one go.

    ``mixing(batch)`` gives how much each of the ``members`` weighs in each layer of each row, (K, layers, members), for
    a method that mixes others; ``mixing_of`` the same over a kind of token alone (of a picture, of text), NaN for a row
    without any. ``penalty()`` is added to the mean loss of each optimizer step. ``after_step(step)`` is
    called with the number of steps taken, after each that changed weights, while the gradients are still there; what
    it keeps between steps is in ``state``, tensors that it changes in place, and so in every checkpoint. ``told()`` is
    what it adds to the result of a finished run. ``batch_norms`` are the layers of batch normalisation that take
    each batch's own statistics, or may (``runs/normalising.py``). ``rates`` has the highest learning rate of those
    parameters that have one of their own.
    """

    method: str
    parameters: dict[str, torch.nn.Parameter]
    save: Callable[[Path], None]
    base: Callable[[], AbstractContextManager[Any]] | None = None
    merge: Callable[[], None] | None = None
    solve: Callable[[Tensor, list[Any]], Solved] | None = None
    pooling: str = ""
    members: list[str] = field(default_factory=list)
    mixing: Callable[[Batch], Tensor] | None = None
    mixing_of: dict[str, Callable[[Batch], Tensor]] = field(default_factory=dict)
    penalty: Callable[[], Tensor] | None = None
    after_step: Callable[[int], None] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    told: Callable[[], dict[str, Any]] | None = None
    rates: dict[str, float] = field(default_factory=dict)
    batch_norms: dict[str, torch.nn.Module] = field(default_factory=dict)


class Solved(Protocol):
    """A classifier on frozen vectors: a row of outputs per vector, and tensors and settings that rebuild it."""

    settings: dict[str, Any]

    def outputs(self, vectors_KD: Tensor) -> list[list[float]]: ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Finding:
    """One thing that a check found: what, where, why it matters and how to mend it.

    ``code`` is stable (``data.empty-target``); ``where`` is ``file:line:field`` or a recipe key;
    ``severity`` is "error" (training would be wrong: refused), "warning" or "note".
    """

    code: str
    where: str
    what: str
    mend: str = ""
    why: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.why:
            text += f" ({self.why})"
        if self.mend:
            text += f". {self.mend[0].upper()}{self.mend[1:]}"
        return f"{text} [{self.code}]"


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend of a name that is not among ``known``."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known)}"


class Refused(Exception):
    """Luthier will not go on: the findings say why. The command line prints them and exits with 2."""

    def __init__(self, *findings: Finding):
        self.findings = list(findings)
        super().__init__("\n".join(str(finding) for finding in findings))
