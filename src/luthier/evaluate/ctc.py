"""What the frames of a CTC model say: the letters, by the best path or by a search over beams, and when each is said.

References: Graves et al. 2006 (ICML: Connectionist temporal classification), sections 3 and 4; prefix beam search as in
Hannun et al. 2014 (arXiv 1408.2873), algorithm 1, without a language model.

Axes: L frames, V letters with the blank, S = 2 · labels + 1 states of a trellis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from luthier.models.audio.hearing import HearingBackbone
from luthier.models.modes import evaluating
from luthier.types import Batch, Features

KEPT = 24  # letters of a frame that a beam search looks at


def collapse(path: Sequence[int], blank: int) -> list[int]:
    """Repeats joined, then blanks left out: [b a a b a] → [a a]."""
    return [one for at, one in enumerate(path) if one != blank and (at == 0 or path[at - 1] != one)]


def least_frames(labels: Sequence[int]) -> int:
    """How many frames a transcript needs: one a label, and a blank between two of a kind."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def beam_search(logs_LV: np.ndarray, width: int, blank: int) -> list[int]:
    """The labels that are likeliest by the sum over their paths, of the ``width`` that were kept at each frame."""
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}  # log p that ends in blank, and not
    for frame_V in logs_LV:
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(prefix: tuple[int, ...], in_blank: float, in_label: float, to: dict = grown) -> None:  # type: ignore[type-arg]
            old = to.get(prefix, (-math.inf, -math.inf))
            to[prefix] = (np.logaddexp(old[0], in_blank), np.logaddexp(old[1], in_label))

        letters = np.argsort(-frame_V)[:KEPT].tolist()
        for prefix, (in_blank, in_label) in beams.items():
            both = np.logaddexp(in_blank, in_label)
            for letter in letters:
                log = float(frame_V[letter])
                if letter == blank:
                    add(prefix, both + log, -math.inf)
                elif prefix and prefix[-1] == letter:
                    add(prefix, -math.inf, in_label + log)
                    add((*prefix, letter), -math.inf, in_blank + log)
                else:
                    add((*prefix, letter), -math.inf, both + log)
        best = sorted(grown.items(), key=lambda one: (-np.logaddexp(*one[1]), one[0]))
        beams = dict(best[:width])
    return list(max(beams.items(), key=lambda one: np.logaddexp(*one[1]))[0])


def align(logs_LV: np.ndarray, labels: Sequence[int], blank: int) -> tuple[list[tuple[int, int]], float]:
    """Frames [start, stop) of each label on the likeliest path that says them, and that path's log probability.

    Raises ValueError where there are too few frames.
    """
    if len(logs_LV) < least_frames(labels):
        raise ValueError(f"{len(labels)} labels need {least_frames(labels)} frames, these are {len(logs_LV)}")
    states = [blank]
    for label in labels:
        states += [label, blank]
    skips = np.array([s > 1 and states[s] != blank and states[s] != states[s - 2] for s in range(len(states))])
    score_S = np.full(len(states), -np.inf)
    score_S[:2] = logs_LV[0, states[:2]]
    came_LS = np.zeros((len(logs_LV), len(states)), dtype=np.int8)
    for at in range(1, len(logs_LV)):
        one, two = np.roll(score_S, 1), np.roll(score_S, 2)
        one[:1], two[:2] = -np.inf, -np.inf
        options = np.stack([score_S, one, np.where(skips, two, -np.inf)])
        came_LS[at] = options.argmax(axis=0)
        score_S = options.max(axis=0) + logs_LV[at, states]
    state = len(states) - 1 if len(states) == 1 or score_S[-1] >= score_S[-2] else len(states) - 2
    total = float(score_S[state])
    path = [state]
    for at in range(len(logs_LV) - 1, 0, -1):
        state -= int(came_LS[at, state])
        path.append(state)
    path.reverse()
    spans = []
    for index in range(len(labels)):
        frames = [at for at, state in enumerate(path) if state == 2 * index + 1]
        spans.append((frames[0], frames[-1] + 1))
    return spans, total


@torch.no_grad()
def log_probabilities(backbone: HearingBackbone, rows: Sequence[Features], batch_size: int = 8) -> list[np.ndarray]:
    """(L, V) of each row's frames."""
    found: list[np.ndarray] = []
    with evaluating(backbone.model):
        for first in range(0, len(rows), batch_size):
            some = list(rows[first : first + batch_size])
            batch = Batch(backbone.lay_out(some), [0] * len(some)).to(backbone.device)
            logs_KLV = log_softmax(backbone, backbone.hidden(batch), batch)
            found += [logs_KLV[k, : len(row["input_ids"])].cpu().numpy() for k, row in enumerate(some)]
    return found


def log_softmax(backbone: HearingBackbone, hidden_TD: Tensor, batch: Batch) -> Tensor:
    """(T, D) → (K, L, V), in fp32."""
    logits_KLV = backbone.frame_logits(hidden_TD.unflatten(0, (len(batch["lengths"]), -1)))
    return torch.log_softmax(logits_KLV.float(), dim=-1)
