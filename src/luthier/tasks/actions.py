"""What `act` makes of an episode: for each step what is seen then, as pictures and text, and what is to be done.

A state is told in words, as pi-0.5 does (Black et al. 2025, arXiv 2504.16054, section IV-B): each number, scaled, as
one of 256 whole numbers after the instruction. Frames of the past stand before the present one, the first frame again
where an episode is too young.

Axes: H actions of a chunk, A numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luthier.data.statistics import Known, Scale, bins_of
from luthier.models.backbone import Backbone
from luthier.types import Example, Features, Finding, Refused, Step

STATE_LEVELS = 256


@dataclass(frozen=True)
class Reading:
    """How a step is read: frames of the past beside the present one, and the state's scale where it is told."""

    history: int
    state: Scale | None

    def seen(self, example: Example, at: int) -> Example:
        """The step as an example of pictures and a text."""
        steps, images = example.steps or [], example.images or []
        frames = [steps[max(0, at - back)] for back in range(self.history - 1, -1, -1)]
        pictures = [images[place] for step in frames for place in step.images]
        return replace(example, images=pictures or None, text=self.text(example.text, steps[at]), steps=None)

    def text(self, instruction: str | None, step: Step) -> str:
        if self.state is None or step.state is None:
            return instruction or ""
        levels = bins_of(self.state.scaled(step.state), STATE_LEVELS)
        return f"{instruction or ''} state: {' '.join(map(str, levels))}".strip()


def asked_steps(example: Example) -> list[int]:
    """The steps that make rows: all of an episode, or the last of those that were seen so far."""
    steps = example.steps or []
    done = [at for at, step in enumerate(steps) if step.action is not None]
    return done if done else [len(steps) - 1] if steps else []


def last_done(example: Example, at: int) -> str | tuple[float, ...] | None:
    return (example.steps or [])[at - 1].action if at else None


def chunk_of(example: Example, at: int, chunk: int, scale: Scale) -> list[float]:
    """The next ``chunk`` actions, scaled, end to end; NaN past the end of the episode."""
    values_HA = np.full((chunk, len(scale)), np.nan)
    for place, step in enumerate((example.steps or [])[at : at + chunk]):
        if step.action is not None:
            values_HA[place] = step.action
    return scale.scaled(values_HA).ravel().tolist()


def uneven(examples: Sequence[Example]) -> list[Finding]:
    """Episodes that are made otherwise than most: in pictures of a step, numbers of a state or of an action."""
    shapes = [(_shape(example), example) for example in examples]
    counts: dict[tuple[int, int, int], int] = {}
    for shape, _ in shapes:
        counts[shape] = counts.get(shape, 0) + 1
    usual = max(counts, key=lambda shape: counts[shape])
    names, findings = ("pictures", "numbers of a state", "numbers of an action"), []
    for shape, example in shapes:
        for name, has, most in zip(names, shape, usual, strict=True):
            if has != most:
                what = f"its steps have {has} {name}, and those of most rows {most}"
                mend = "give rows of one kind" + ("; names and numbers are two" if name == names[2] else "")
                findings.append(Finding("data.action-size", f"{example.source}:trajectory", what, mend))
    return findings


def _shape(example: Example) -> tuple[int, int, int]:
    step = (example.steps or [Step()])[0]
    action = step.action if isinstance(step.action, tuple) else ()
    return len(step.images), len(step.state or ()), len(action)


def unfitting(named: bool, predicts: str, chunk: int) -> list[Finding]:
    """Settings that do not fit actions of this kind."""
    found = "names" if named else "numbers"
    if named != (predicts == "classes"):
        what, mend = f"the actions are {found}, which are no {predicts}", "leave it out: the rows tell it"
        return [Finding("task.actions", "act.predicts", what, mend)]
    if named and chunk > 1:
        what = "actions that are names are predicted one at a time"
        return [Finding("task.actions", "act.chunk", what, "leave it out")]
    return []


def one_instruction(train: Sequence[Example]) -> list[Finding]:
    """A note where nothing tells what another instruction would change."""
    if len({example.text for example in train}) > 1:
        return []
    what = f"all {len(train)} episodes have one instruction: what another one would change is not learned"
    return [Finding("task.one-instruction", "data.train", what, severity="note")]


def foreign_units(examples: Sequence[Example], known: Known) -> list[Finding]:
    """Rows whose numbers are of other units than those that were learned: as they say, or as their sizes tell."""
    findings = []
    for example in examples:
        if example.units and known.units and example.units != known.units:
            what = f"its numbers are {example.units!r}, and those that were learned {known.units!r}"
            findings.append(Finding("data.units", f"{example.source}:units", what, "convert them"))
        steps = example.steps or []
        done = [step.action for step in steps if isinstance(step.action, tuple)]
        for name, scale, values in (
            ("action", known.action, done), ("state", known.state, [step.state for step in steps if step.state])
        ):  # fmt: skip
            if scale is not None and (values or name == "state"):
                findings += _foreign(f"{example.source}:trajectory.{name}", name, scale, values)
    return findings


def _foreign(where: str, name: str, scale: Scale, values: Sequence[Any]) -> list[Finding]:
    if not values or len(values[0]) != len(scale):
        what = f"has {len(values[0]) if values else 'no'} numbers, and {len(scale)} were learned"
        return [Finding("data.action-size", where, what, "give those")]
    foreign = scale.foreign(values)
    if not foreign:
        return []
    at = foreign[0]
    typical = sorted(one[at] for one in values)[len(values) // 2]
    what = f"number {at + 1} of the {name} is about {typical:.4g}; {scale.least[at]:.4g} to {scale.most[at]:.4g} "
    mend = "convert it to the units of the training rows"
    return [Finding("data.units", where, what + "were learned", mend, "in other units a model's actions mean nothing")]


def action_ids(backbone: Backbone, bins: int) -> list[int]:
    """The token of each bin: of the vocabulary's end, special ones left out. Raises Refused where there are too few."""
    tokenizer = backbone.tokenizer
    taken = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    free = [token for token in range(len(tokenizer)) if token not in taken]
    if len(free) < 2 * bins:
        what = f"the vocabulary has {len(free)} tokens, and {bins} of them are to stand for actions"
        raise Refused(Finding("task.actions", "act.bins", what, f"give at most {len(free) // 2}"))
    return free[-bins:]


def room_before(numbers: int, limit: int) -> int:
    """Tokens of a row before those of its actions. Raises Refused where none is left."""
    if numbers >= limit:
        what = f"{numbers} numbers of a chunk leave no room for what is seen in {limit} tokens"
        raise Refused(Finding("task.actions", "act.chunk", what, "raise `max_length`, or shorten it"))
    return limit - numbers


def with_action_tokens(row: Features, ids: list[int], numbers: int) -> Features:
    """The row with the tokens of its actions at its end, which are supervised: those that are known."""
    prompt = list(row["input_ids"])
    known = [value for value in row["target"] or () if not math.isnan(value)]
    made = [ids[one] for one in bins_of(known, len(ids))]
    told = {"prompt": len(prompt), "action_ids": ids, "numbers": numbers, "turn_ends": []}
    full = row["full_length"] + numbers
    return row | told | {
        "input_ids": prompt + made, "supervised": [False] * len(prompt) + [True] * len(made), "full_length": full,
    }  # fmt: skip
