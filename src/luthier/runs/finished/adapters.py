"""``luthier adapters``: what several runs' adapters are, and one new run made of them: their average, or a stack.

An average is exact and is itself one adapter. For bottlenecks, Σ wₙ δₙ(x) is a bottleneck that lays theirs side by
side; for LoRA, Σ wₙ Bₙ Aₙ is a LoRA whose rank is the sum of theirs. (Averaging the numbers themselves would mix hidden
units that mean different things.)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from luthier.export.parity import compare, probes
from luthier.methods.adapter import OWN
from luthier.methods.bottleneck import CHILD
from luthier.methods.common import CONFIG, WEIGHTS, read_adapter
from luthier.methods.lora import scale_of
from luthier.methods.members import TYPE, Member, find_members
from luthier.runs.folder import write_json
from luthier.runs.run import Run
from luthier.types import Finding, Refused

LORA_PART = (".lora_A.", ".lora_B.")


def listing(paths: Sequence[str]) -> list[dict[str, Any]]:
    """What each run's adapter is: kind, size, base and score."""
    return [_told(Run(path)) for path in paths]


def _told(run: Run) -> dict[str, Any]:
    methods, result = run.resolved.methods, run.result
    config = _config(run.folder / "final")
    metric = result.get("metric", "")
    after = (result.get("after") or {}).get(metric) or {}
    members = config.get("members") or {}
    sizes = [f"{name}: {spec['kind']} {spec['size']}" for name, spec in members.items()]
    return {
        "run": str(run.folder),
        "task": run.info["task"],
        "method": methods.name,
        "shape": ", ".join(sizes) or (f"rank {config['r']}" if config.get("r") else ""),
        "base": run.info["model"]["name"],
        "numbers": result.get("trainable"),
        "metric": metric,
        "score": after.get("value"),
        "merges": not methods.unmergeable(),
        "made_of": run.info.get("made_of", []),
    }


def _config(final: Path) -> dict[str, Any]:
    path = final / CONFIG
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def average(paths: Sequence[str], to: str | Path, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """A run whose adapter gives the weighted mean of theirs. Raises Refused where that has no meaning."""
    runs, share = _several(paths), list(weights or [1 / len(paths)] * len(paths))
    if len(share) != len(runs) or not abs(sum(share) - 1) <= 1e-6:  # nan is no share
        what = f"{len(share)} weights, of sum {sum(share):g}, for {len(runs)} runs"
        raise Refused(Finding("adapters.weights", "--weights", what, "give one for each run, of sum 1"))
    _same_labels(runs)
    kinds = {_config(run.folder / "final").get("peft_type") for run in runs}
    if kinds == {TYPE["adapter"]}:
        config, tensors, changed = _bottlenecks(find_members([run.folder for run in runs]), share)
    elif kinds == {"LORA"}:
        config, tensors, changed = _loras(runs, share)
    else:
        what = f"these runs hold {', '.join(sorted(str(kind) for kind in kinds))}"
        mend = "give runs of `method: adapter` alone, or of `method: lora` alone"
        raise Refused(Finding("adapters.kind", ", ".join(paths), what, mend))
    return _made(runs, Path(to), config, tensors, changed, "average", share)


def stack(paths: Sequence[str], to: str | Path) -> dict[str, Any]:
    """A run with all adapters in force, the first one lowest; task and head are the last one's."""
    runs = _several(paths)
    members = find_members([run.folder for run in runs])
    _same_base(members)
    tensors: dict[str, Tensor] = {}
    for member in members:
        tensors |= member.renamed()
    last = members[-1]
    tensors |= {n: t for n, t in last.tensors.items() if f".{CHILD}." not in n}
    specs = {member.name: asdict(member.spec) for member in members}
    config = last.config | {"members": specs, "active": list(specs)}
    return _made(runs[::-1], Path(to), config, tensors, {}, "stack", [])


def _several(paths: Sequence[str]) -> list[Run]:
    if len(paths) < 2:
        raise Refused(Finding("adapters.few", " ".join(paths), "one run is nothing to combine", "name at least two"))
    return [Run(path) for path in paths]


def _same_labels(runs: list[Run]) -> None:
    first, findings = runs[0], []
    for run in runs[1:]:
        mine, theirs = (_labels(one.folder / "final") for one in (run, first))
        if run.info["task"] != first.info["task"] or mine != theirs:
            what = f"its task or labels differ from those of {first.folder}"
            findings.append(Finding("adapters.labels", str(run.folder), what, "average runs of one task"))
    if findings:
        raise Refused(*findings)


def _labels(final: Path) -> Any:
    return json.loads((final / "config.json").read_text(encoding="utf-8")).get("id2label")


def _same_base(members: list[Member]) -> None:
    other = [member for member in members if member.config.get("base") != members[0].config.get("base")]
    if other:
        what = f"it was trained on other weights than {members[0].folder}"
        findings = [Finding("adapter.base", str(m.folder), what, "give runs of one base model") for m in other]
        raise Refused(*findings)


def _bottlenecks(members: list[Member], share: list[float]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """δ = Σ wₙ sₙ Uₙ f(Dₙ x + dₙ) + wₙ sₙ uₙ: D and d stacked, U side by side with wₙ sₙ / s₁ in it."""
    _same_base(members)
    first = members[0].spec
    for member in members:
        for what in ("kind", "activation", "blocks", "norm"):
            mine, theirs = vars(member.spec)[what], vars(first)[what]
            if mine != theirs or (what == "norm" and mine):
                said = "it has a norm of its own" if what == "norm" else f"its {what} is {mine}, not {theirs}"
                mend = "average adapters of one kind, without norms"
                raise Refused(Finding("adapter.alike", str(member.folder), said, mend))
    parts: dict[str, list[Tensor]] = {}
    head: dict[str, Tensor] = {}
    for member, weight in zip(members, share, strict=True):
        (old,) = member.config["members"]
        for name, tensor in member.tensors.items():
            if f".{CHILD}.{old}." not in name:
                head[name] = head.get(name, 0) + weight * tensor
                continue
            scale = weight * member.spec.scaling / first.scaling if ".up." in name else 1.0
            parts.setdefault(name.replace(f".{CHILD}.{old}.", f".{CHILD}.{OWN}."), []).append(scale * tensor)
    tensors = {name: _side_by_side(name, found) for name, found in parts.items()}
    size = sum(member.spec.size for member in members)
    config = members[0].config | {"members": {OWN: asdict(first) | {"size": size}}, "active": [OWN]}
    return config, tensors | head, {"adapter": {"size": size}}


def _side_by_side(name: str, found: list[Tensor]) -> Tensor:
    if name.endswith(".up.bias"):
        return torch.stack(found).sum(0)
    return torch.cat(found, dim=1 if name.endswith(".up.weight") else 0)


def _loras(runs: list[Run], share: list[float]) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Σ wₙ sₙ Bₙ Aₙ: A stacked, B side by side with wₙ sₙ in it; the new scale is 1."""
    read = [read_adapter(run.folder / "final") for run in runs]
    names = {tuple(sorted(tensors)) for _, tensors in read}
    bases = {run.info["model"]["path"] for run in runs}
    if len(names) > 1 or len(bases) > 1 or any(config.get("use_dora") for config, _ in read):
        what = "these LoRA runs differ in base or targets, or are DoRA, which is not linear"
        raise Refused(Finding("adapter.alike", str(runs[0].folder), what, "average LoRA runs of one recipe"))
    parts: dict[str, list[Tensor]] = {}
    for (config, tensors), weight in zip(read, share, strict=True):
        scale = scale_of(config)
        for name, tensor in tensors.items():
            lora = any(part in name for part in LORA_PART)
            parts.setdefault(name, []).append(
                tensor if ".lora_A." in name else tensor * weight * (scale if lora else 1)
            )
    tensors = {
        name: torch.cat(found, dim=0 if ".lora_A." in name else 1)
        if any(part in name for part in LORA_PART)
        else torch.stack(found).sum(0)
        for name, found in parts.items()
    }
    rank = sum(config["r"] for config, _ in read)
    changed = {"r": rank, "lora_alpha": rank, "use_rslora": False}
    options = {"rank": rank, "alpha": float(rank), "rslora": False, "variant": "lora"}
    return read[0][0] | changed, tensors, {"lora": options}


def _made(
    runs: list[Run], to: Path, config: dict[str, Any], tensors: dict[str, Tensor], changed: dict[str, Any], how: str,
    share: list[float],
) -> dict[str, Any]:  # fmt: skip
    """Write the new run beside the others' recipe (the first of ``runs``), and say how alike it answers."""
    if to.exists():
        raise Refused(Finding("copy.exists", str(to), "this folder exists already", "give another with `--to`"))
    first, partial = runs[0], to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(first.folder / "final", partial / "final", ignore=shutil.ignore_patterns("README.md", WEIGHTS))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / "final" / WEIGHTS)
    (partial / "final" / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    resolved = first.resolved
    for method, options in changed.items():
        resolved.methods.options[method].__dict__.update(options)
    (partial / "recipe.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    made = {"how": how, "made_of": [str(run.folder) for run in runs], "weights": share}
    created = datetime.now().isoformat(timespec="seconds")
    write_json(partial / "run.json", first.info | {"name": to.name, "created": created, "recipe_hash": "", **made})
    partial.replace(to)
    examples, labels = probes(first), _labels(to / "final")
    likes = [run for run in runs if run.info["task"] == first.info["task"] and _labels(run.folder / "final") == labels]
    alike = {str(run.folder): compare(run.predictor, Run(to).predictor, examples) for run in likes}
    write_json(to / "run.json", Run(to).info | {"parity": alike})
    return {"folder": str(to), "how": how, "weights": share, "parity": alike}
