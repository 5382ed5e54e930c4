"""Seconds of a step and of a run, from the trace's work and rates that are measured here or taken from a data sheet.

    seconds = FLOPs / rate + bytes moved / bandwidth + operations · dispatch        (a roofline, operation by operation)

FLOPs are those of the matrix products and attentions of forward and backward, as torch's flop counter has them; bytes
are what all other operations read and write. No overlap is assumed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from luthier.engine.precision import autocast, matmul_route
from luthier.plan.devices import Device
from luthier.plan.memory import Footprint, costs
from luthier.plan.trace import Work
from luthier.runs.prepared import Prepared

SECONDS = 0.3  # of measuring, per rate
DISPATCH = {"cpu": 8e-6, "cuda": 8e-6}


@dataclass(frozen=True)
class Rates:
    """FLOP/s of matrix products and bytes/s of everything else, and where they come from."""

    flops: float
    bandwidth: float
    dispatch: float
    origin: str

    def seconds(self, work: Work) -> float:
        return work.flops / self.flops + work.moved / self.bandwidth + work.calls * self.dispatch


@dataclass
class Timing:
    """Seconds: of a step, of one evaluation, of what is computed once, and of the whole run; and what they rest on.

    Without: imports, loading, checks, answers written for the report, and files.
    """

    step: float
    evaluation: float
    once: float
    steps: int
    evaluations: int
    origin: str
    step_flops: float

    @property
    def run(self) -> float:
        return self.once + self.steps * self.step + self.evaluations * self.evaluation

    def scaled(self, by: float) -> None:
        self.step, self.evaluation, self.once = self.step * by, self.evaluation * by, self.once * by

    def as_dict(self) -> dict[str, Any]:
        return {
            "step_s": round(self.step, 4), "run_s": round(self.run, 1), "steps": self.steps,
            "evaluation_s": round(self.evaluation, 3), "evaluations": self.evaluations, "once_s": round(self.once, 2),
            "step_tflop": round(self.step_flops / 1e12, 4),
        }  # fmt: skip


def timing(prepared: Prepared, found: Footprint, device: Device) -> Timing:
    """Each phase's time by its share of tokens: the traced micro-batches stand for all."""
    recipe: Any = prepared.resolved.recipe
    speed = rates(device, recipe.precision, str(recipe.matmul), prepared.backbone.width, found.tokens_of_largest)
    work = {phase.name: phase.work for phase in found.trace.phases}
    train, held_out = (side.tokens + costs(side.rows) for side in (prepared.train, prepared.evaluation))
    evaluation = speed.seconds(work.get("evaluation", Work())) * held_out / max(1, found.evaluated)
    once = speed.seconds(work.get("cache", Work())) * (found.read_once or (train + held_out) / max(1, found.read))
    if found.referred:
        once += speed.seconds(work["reference"]) * (train + held_out) / found.referred
    if prepared.adaptation.solve is not None:
        return Timing(0.0, 0.0, once, 0, 0, speed.origin, 0.0)
    part = train / len(prepared.train.rows) * min(recipe.batch_size, len(prepared.train.rows)) / max(1, found.tokens)
    if found.read:  # of a frozen trunk's rows: `tokens` are positions read, which go as the rows do
        traced = sum(len(group) for group in found.groups)
        part, evaluation = recipe.batch_size / max(1, traced), 0.0
    step = work.get("step", Work())
    seconds = speed.seconds(step) * part + speed.seconds(found.update)
    evaluations = math.ceil(recipe.steps / recipe.eval_every) + 2 if prepared.evaluation.rows else 0
    flops = step.flops * part
    return Timing(seconds, evaluation, once, recipe.steps, evaluations, speed.origin, flops)


def rates(device: Device, precision: str, matmul: str, width: int, tokens: int) -> Rates:
    """Of a data sheet where the device is a named one; else measured here on a product of the model's own shape."""
    if device.flops is not None and device.bandwidth is not None:
        return Rates(device.flops[precision], device.bandwidth, DISPATCH["cuda"], "data sheet")
    where = torch.device(device.kind)
    rows, width = min(max(tokens, 64), 2048), min(max(width, 64), 4096)
    with matmul_route(matmul), autocast(precision, where), torch.no_grad():
        x_TD, w_DF = torch.randn(rows, width, device=where), torch.randn(width, 3 * width, device=where)
        flops = 2 * rows * width * 3 * width / _best(lambda: x_TD @ w_DF, where)
    big = torch.randn(2**21, device=where)
    bandwidth = 3 * big.nbytes / _best(lambda: big + big, where)  # two reads and a write
    return Rates(flops, bandwidth, DISPATCH[device.kind], "measured here")


def _best(call: object, where: torch.device) -> float:
    """Median seconds of a call over about ``SECONDS``."""
    assert callable(call)
    taken: list[float] = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(taken) < 3:
        began = time.perf_counter()
        call()
        if where.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]
