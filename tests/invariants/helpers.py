"""What the tests of the engine's promises share: ragged rows, tiny runs, and the loop driven by hand."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from commands import Command
from torch import Tensor

import luthier
import tiny
from luthier.engine.checkpoint import Checkpoint, latest
from luthier.engine.fit import fit
from luthier.engine.parallel import Processes
from luthier.engine.plan import Plan, Progress
from luthier.evaluate.outputs import Reader
from luthier.runs.online.rollouts import Rollouts, rollouts_of
from luthier.runs.prepared import Prepared

BETA_1 = 0.9
PLAN = Plan(
    steps=1, batch_size=8, learning_rate=1e-3, schedule="constant", warmup=0, weight_decay=0.0, max_grad_norm=1e9,
    micro_tokens=4096, eval_every=10**6, save_every=10**6, patience=None, keep=2, seed=0, metric="loss",
    higher_is_better=False, precision="fp32", matmul="default", recipe_hash="hash", data_hash="data", final="last",
)  # fmt: skip
# Tiny models say anything: longer answers, those with an "a" and even numbers of letters get more.
REWARDS = "def mixed(prompts, answers, expected):\n    return [len(a) % 7 + 3 * ('a' in a) for a in answers]\n"


def words(count: int, choose: random.Random) -> str:
    return " ".join(choose.choice(tiny.WORDS) for _ in range(count))


def classify_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Texts of 1 to 12 words, no two alike, labelled by turns; weights 1, 2, 3 where asked for."""
    choose, rows = random.Random(seed), {}
    while len(rows) < count:
        rows[words(choose.randint(1, 12), choose)] = "yes" if len(rows) % 2 else "no"
    told = [{"text": text, "label": label} for text, label in rows.items()]
    return [row | {"weight": 1 + i % 3} for i, row in enumerate(told)] if weighted else told


def chat_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Conversations of one or two exchanges, answers of 1 to 9 words."""
    choose, rows = random.Random(seed), []
    for i in range(count):
        messages = []
        for turn in range(1 + i % 2):
            messages.append({"role": "user", "content": f"{i} {turn} {words(choose.randint(1, 5), choose)}"})
            messages.append({"role": "assistant", "content": words(choose.randint(1, 9), choose)})
        rows.append({"messages": messages} | ({"weight": 1 + i % 3} if weighted else {}))
    return rows


def summary_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Documents of 1 to 12 words, no two alike, with summaries of 1 to 9."""
    choose, texts = random.Random(seed + 1), classify_rows(count, seed=seed, weighted=weighted)
    rows = [{"document": row.pop("text"), "summary": words(choose.randint(1, 9), choose), **row} for row in texts]
    return [{key: value for key, value in row.items() if key != "label"} for row in rows]


def preference_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Pairs with answers of 1 to 9 words; every other row shares its prompt with the one before."""
    choose, rows = random.Random(seed), []
    for i in range(count):
        chosen, rejected = (words(choose.randint(1, 9), choose) for _ in range(2))
        row = {"prompt": f"{i // 2} {tiny.WORDS[i // 2 % 14]}", "chosen": chosen, "rejected": f"{i} {rejected}"}
        rows.append(row | ({"weight": 1 + i % 3} if weighted else {}))
    return rows


def thumb_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Single answers, a thumb up on every other one."""
    rows = preference_rows(count, seed=seed, weighted=weighted)
    for i, row in enumerate(rows):
        row |= {
            "prompt": f"{i} {row['prompt']}",
            "completion": row.pop("chosen" if i % 2 else "rejected"),
            "label": bool(i % 2),
        }
        row.pop("chosen", row.pop("rejected", None))
    return rows


def asked_rows(count: int, *, seed: int = 0, weighted: bool = False) -> list[dict[str, Any]]:
    """Prompts of 1 to 5 words, each with a number that is expected."""
    choose = random.Random(seed)
    rows = [{"prompt": f"{i} {words(choose.randint(1, 5), choose)}", "final": i} for i in range(count)]
    return [row | {"weight": 1 + i % 3} for i, row in enumerate(rows)] if weighted else rows


def ready(model: str, task: str, rows: Sequence[dict[str, Any]], folder: Path, **keys: Any) -> Prepared:
    """A run that could begin: no dropout unless ``keys`` bring it, nothing found wrong."""
    data = {"train": tiny.write_jsonl(folder / "rows.jsonl", rows), "eval": 0.0}
    findings, prepared = luthier.check(task=task, model=model, data=data, **keys)
    assert prepared is not None, findings
    assert prepared.errors == []
    return prepared


def no_dropout(name: str) -> dict[str, float]:
    """Changes of a tiny config that switch its dropout off."""
    bert = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return bert if name == "bert" else {}


@dataclass
class Trained:
    """What a fit left: weights by name, records, and the checkpoint's folder."""

    weights: dict[str, Tensor]
    records: list[dict[str, Any]]
    progress: Progress
    folder: Path

    @property
    def losses(self) -> list[float]:
        return [record["loss"] for record in self.records if record["kind"] == "train"]

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The gradient of the first step, as AdamW kept it: exp_avg = (1 - β₁) g."""
        found, _ = latest(self.folder, "hash", step=1)
        assert found is not None
        optimizer = found.tensors("optimizer")
        return {
            name.removesuffix("|exp_avg"): value / (1 - BETA_1)
            for name, value in optimizer.items()
            if name.endswith("|exp_avg")
        }


class Trial:
    """A prepared run that can be fitted again and again from the same numbers."""

    def __init__(self, prepared: Prepared, folder: Path):
        self.prepared, self.folder, self.count = prepared, folder, 0
        self.start = {name: p.detach().clone() for name, p in prepared.adaptation.parameters.items()}

    def fit(
        self,
        *,
        objective: Any = None,
        rows: list[Any] | None = None,
        evaluate: Callable[[], dict[str, float]] | None = None,
        resume: Checkpoint | None = None,
        folder: Path | None = None,
        records: list[dict[str, Any]] | None = None,
        **changes: Any,
    ) -> Trained:
        self.count += 1
        prepared, parameters = self.prepared, self.prepared.adaptation.parameters
        folder = folder or self.folder / f"fit-{self.count}"
        records = [] if records is None else records
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.start[name])
        progress = fit(
            prepared.backbone, prepared.adaptation, objective or prepared.objective, rows or prepared.train.rows,
            replace(PLAN, **changes), evaluate=evaluate, emit=records.append, processes=Processes(), folder=folder,
            resume=resume, source=rollouts_of(prepared, Reader(prepared.backbone, 4096), Processes(), records.append),
        )  # fmt: skip
        weights = {name: p.detach().clone() for name, p in parameters.items()}
        return Trained(weights, records, progress, folder)


def reinforced(
    objective: str, options: dict[str, Any], model: str, folder: Path, *, rows: int = 8, **keys: Any
) -> Trial:
    """A trial of `reinforce` with ``REWARDS``, by a small LoRA unless ``keys`` name a method; they are the recipe's,
    with ``rewards`` and, upon ``options``, the objective's section."""
    (folder / "mine.py").write_text(REWARDS)
    section = {**options, **keys.pop(objective, {})}
    rewards = keys.pop("rewards", [{"function": str(folder / "mine.py:mixed")}])
    keys = {"method": "lora", "lora": {"rank": 2}, **keys} if "method" not in keys else keys
    keys |= {objective: section, "reinforce": {"rewards": rewards}, "out": str(folder)}
    return Trial(ready(model, "reinforce", asked_rows(rows, weighted=True), folder, **keys), folder)


def source(made: Trial) -> Rollouts:
    found = rollouts_of(made.prepared, Reader(made.prepared.backbone, 4096), Processes(), lambda record: None)
    assert found is not None
    return found


def nudge(made: Trial) -> None:
    """Its start is moved away from what it was, which is the reference of what learns from rewards."""
    with torch.no_grad():
        for parameter in made.start.values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


class Wrapped:
    """An objective with one of its methods replaced, all else as it was."""

    def __init__(self, objective: Any, **replaced: Any):
        self._objective = objective
        self.__dict__ |= replaced

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, *, but: str | tuple[str, ...] = ""
) -> None:
    """Every number within ``tolerance``; tensors whose name ends in ``but`` are left out."""
    assert found.keys() == expected.keys()
    for name in found:
        if not but or not name.endswith(but):
            assert (found[name] - expected[name]).abs().max() <= tolerance, name


def assert_same_gradient(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """|g - g'| at most 1e-6 of |g|, over all parameters as one vector."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[name] - expected[name]).double().square().sum()) for name in found) ** 0.5
    size = sum(float(expected[name].double().square().sum()) for name in expected) ** 0.5
    assert size > 0
    assert difference <= 1e-6 * size


def write_recipe(folder: Path, **keys: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def records(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; none before it is there."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1]]


def train_steps(run: Path) -> list[int]:
    return [record["step"] for record in records(run) if record["kind"] == "train"]


def wait_for(step: int, command: Command, run: Path) -> None:
    """Until the run that ``command`` makes has taken a step; it must not end before."""
    while command.running():
        if step in train_steps(run):
            return
    raise AssertionError(command.output)


def final_sha256(run: Path) -> dict[str, str]:
    """sha256 of each weight file of the final model."""
    files = sorted((run / "final").glob("*.safetensors"))
    assert files
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
