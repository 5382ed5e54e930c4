"""What a finished run leaves: the final model, samples, the result, a model card and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PEFT_TYPE_TO_CONFIG_MAPPING

from luthier.engine.recovery import peak_memory_mb
from luthier.methods.bottleneck import CHILD, FUSED
from luthier.methods.by_role import ByRole
from luthier.methods.common import CONFIG
from luthier.reports.card import model_card
from luthier.reports.html import write_report
from luthier.runs.beside.critic import NAME
from luthier.runs.finding.embedder import save_embedding
from luthier.runs.finding.thumbnails import keep_thumbnails
from luthier.runs.folder import set_status, write_json, write_lines
from luthier.runs.fused import tell_mixing
from luthier.runs.predictor import Predictor
from luthier.runs.prepared import Prepared
from luthier.tasks.common import Keeps

SAMPLES = 24
# What stands in the names of parameters that a method brings.
MARKS = {f".{FUSED}.": "fusion", f".{CHILD}.": "adapter", "value_score.": "value", "value_model.": "value"}
MARKS |= {f".lora_{side}.{NAME}.": "value" for side in "AB"}


def finish(
    prepared: Prepared, predictor: Predictor, folder: Path, before: Any, after: Any, outcome: dict[str, Any],
    samples: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Final model, samples, result, card and report."""

    final = folder / "final"
    _save_final(prepared, predictor, final)
    if "mixing" in outcome:
        outcome["mixing"] = tell_mixing(folder, prepared, outcome["mixing"], samples)
    _write_samples(folder / "samples.jsonl", before["samples"], samples)
    keep_thumbnails(folder, prepared.evaluation.examples)
    write_json(folder / "result.json", _result(prepared, final, before["metrics"], after, outcome))
    set_status(folder, "finished", opens_with=opens_with(final))
    (final / "README.md").write_text(model_card(folder), encoding="utf-8")
    write_report(folder)


def _save_final(prepared: Prepared, predictor: Predictor, final: Path) -> None:
    prepared.adaptation.save(final)
    if predictor.solved is not None:
        predictor.solved.save(final)
    # Labels and ids live in the model's config, also where only an adapter is saved.
    for key, value in prepared.task.config().items():
        setattr(prepared.backbone.model.config, key, value)
    prepared.backbone.model.config.save_pretrained(final)
    if isinstance(prepared.task, Keeps):
        prepared.task.keep(final)
    prepared.backbone.save_readers(final)
    if prepared.objective.couples:
        max_length = prepared.resolved.recipe.max_length
        save_embedding(prepared.task, prepared.objective, max_length, final, opens_with(final))


def opens_with(final: Path) -> str:
    """The library whose ``from_pretrained`` opens it: told by what was written there."""
    if (final / "config.json").is_file() and any(final.glob("model*.safetensors")):
        return "transformers"
    if not (final / CONFIG).is_file():
        return "luthier"
    kind = json.loads((final / CONFIG).read_text(encoding="utf-8"))["peft_type"]
    return "peft" if kind in PEFT_TYPE_TO_CONFIG_MAPPING else "luthier"


def _write_samples(path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    lines = []
    for i, sample in enumerate(after):
        answer, decided = sample.pop("answer"), sample.pop("decided")
        old = before[i] if i < len(before) else None
        if old and "spans" in old:
            sample["spans"]["before"] = old["spans"]["after"]
        changed = old is not None and old["decided"] != decided
        lines.append(sample | {"before": old["answer"] if old else None, "after": answer, "changed": changed})
    write_lines(path, lines)


def _result(prepared: Prepared, final: Path, before: Any, after: Any, outcome: dict[str, Any]) -> dict[str, Any]:

    recipe, parameters = prepared.resolved.recipe, prepared.adaptation.parameters
    size = sum(path.stat().st_size for path in final.rglob("*") if path.is_file())
    return {
        "metric": recipe.metric,
        "higher_is_better": prepared.task.metrics[recipe.metric],
        "before": before,
        "after": after,
        "trainable": sum(p.numel() for p in parameters.values()),
        "parameters": sum(p.numel() for p in prepared.weights),
        "trained": roles_trained(prepared),
        **({"roles": methods.summary} if isinstance(methods := prepared.resolved.methods, ByRole) else {}),
        **outcome,
        "peak_memory_mb": peak_memory_mb(prepared.backbone.device),
        "data": prepared.data,
        "findings": [vars(finding) for finding in prepared.findings],
        "final": "final",
        "size_mb": round(size / 2**20, 2),
    }


def roles_trained(prepared: Prepared) -> list[dict[str, Any]]:
    """How many tensors and numbers train, by role."""
    seams = prepared.backbone.seams
    linear_role = {linear.name: sorted(linear.roles & {"attention", "feed_forward"})[0] for linear in seams.linears}
    head = tuple(f"{name}." for name in seams.head)
    counts: dict[str, list[int]] = {}
    for name, parameter in prepared.adaptation.parameters.items():
        marked = next((role for mark, role in MARKS.items() if mark in name), None)
        role = marked or next((r for linear, r in linear_role.items() if name.startswith(f"{linear}.")), None)
        if role is None:
            in_head = bool(head) and name.startswith(head)
            in_embedding = bool(seams.embedding) and name.startswith(str(seams.embedding).rpartition(".")[0] + ".")
            role = "head" if in_head else "norm" if "norm" in name.lower() else "embedding" if in_embedding else "other"
        tally = counts.setdefault(role, [0, 0])
        tally[0] += 1
        tally[1] += parameter.numel()
    return [{"role": role, "tensors": tensors, "numbers": numbers} for role, (tensors, numbers) in counts.items()]
