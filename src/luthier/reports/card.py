"""The model card: what the model is, code that loads it, the data, the results with intervals, and the limits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from luthier.reports.data import account
from luthier.reports.figures import count, decimals, label, plain, share, span
from luthier.reports.folder import RunFolder, read_run
from luthier.reports.loading import library, loading_code
from luthier.reports.verdict import verdict

PIPELINE = {
    "classify": "text-classification", "chat": "text-generation", "complete": "text-generation",
    "summarize": "summarization", "tag": "token-classification", "translate": "translation", "plan": "text-generation",
    "prefer": "text-generation", "reinforce": "text-generation", "reward": "text-classification",
}  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_card(run: Path) -> str:
    """README.md for the final model of a run, from the run's own files alone.

    The card is meant to lie beside the weights: its code loads from the folder that holds it.
    """
    folder = read_run(run)
    name = folder.run.get("name", folder.path.name)
    options = (yaml.safe_load(folder.recipe) or {}).get(folder.run["task"]) or {}
    parts = [
        f"---\n{yaml.safe_dump(front_matter(folder), sort_keys=False, allow_unicode=True)}---",
        f"# {name}\n\n{_what(folder)}",
        f"## Use\n\n```python\n{loading_code(folder.run, class_names(folder), options)}```",
        _section("Data", _data(folder)),
        _section("Results", _results(folder)),
        f"## Limits\n\n{_limits(folder)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(folder: RunFolder) -> dict[str, Any]:
    """The metadata that model hubs read. A base model that is no hub id stays in the text alone."""
    run = folder.run
    metric = (folder.result or {}).get("metric")
    values = {
        "base_model": run["model"]["name"] if is_hub_id(run["model"]) else None,
        "library_name": library(run),
        "pipeline_tag": PIPELINE.get(run["task"]),
        "tags": list(dict.fromkeys(["luthier", run["task"], *_methods(folder)])),
        "metrics": [metric] if metric and folder.metric("after") else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _methods(folder: RunFolder) -> list[str]:
    """The names of the methods, whatever role each was given."""
    roles = [role["method"] for role in (folder.result or {}).get("roles") or [] if role["trained"]]
    return [name for told in roles or [folder.run["method"]] for name in told.split("+")]


def is_hub_id(model: dict[str, Any]) -> bool:
    """Whether the name is an id on a hub and not a folder here: hubs refuse cards whose base is no id."""
    name, path = str(model.get("name", "")), str(model.get("path") or model.get("name", ""))
    cached = "models--" in path
    return bool(HUB_ID.fullmatch(name)) and (cached or (path == name and not Path(name).exists()))


def class_names(folder: RunFolder) -> list[str]:
    """Label names in the order of their ids: the final model's config, otherwise the order of the data's labels."""
    config = folder.path / (folder.result or {}).get("final", "final") / "config.json"
    if config.is_file():
        names = json.loads(config.read_text(encoding="utf-8")).get("id2label") or {}
        if names:
            return [names[key] for key in sorted(names, key=int)]
    return list(((folder.result or {}).get("data") or {}).get("labels") or {})


def _what(folder: RunFolder) -> str:
    run, result = folder.run, folder.result or {}
    base = run["model"]["name"]
    shown = Path(base).name if Path(base).is_absolute() else base  # where it lay on this machine is nobody's concern
    text = f"`{shown}` adapted to the task `{run['task']}` with the method `{run['method']}`"
    if result.get("trainable") and result.get("parameters"):
        part = share(result["trainable"], result["parameters"])
        text += f" ({count(result['trainable'])} of {count(result['parameters'])} numbers trained, {part})"
    return f"{text}.\n\n{verdict(folder)}"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _data(folder: RunFolder) -> str:
    found = (folder.result or {}).get("data") or {}
    lines = []
    for name in ("train", "eval"):
        split = found.get(name) or {}
        if split.get("read"):
            files = ", ".join(f"`{Path(file).name}`" for file in split.get("files") or []) or "–"
            kind = f" ({split['format']})" if split.get("format") else ""
            lines.append(f"- {name}: {files}{kind}; rows: {account(split)}")
    if labels := found.get("labels"):
        lines.append(
            f"- labels: {len(labels)}, with {count(min(labels.values()))} to {count(max(labels.values()))} rows each"
        )
    return "\n".join(lines)


def _results(folder: RunFolder) -> str:
    result = folder.result or {}
    before, after = result.get("before") or {}, result.get("after") or {}
    if not after:
        return ""
    lines = ["| metric | before | after | 95 % interval after | over |", "|---|---:|---:|---:|---:|"]
    for name in sorted(after, key=lambda key: key != result["metric"]):
        places = decimals(before.get(name), after[name])
        first, last = (_value(metrics.get(name), places) for metrics in (before, after))
        lines.append(
            f"| {label(name)} | {first} | {last} | {span(after[name], places) or '–'} | {plain(after[name].get('n'))} |"
        )
    return "\n".join(lines)


def _value(metric: dict[str, Any] | None, places: int) -> str:
    return f"{metric['value']:.{places}f}" if metric and metric.get("value") is not None else "–"


def _limits(folder: RunFolder) -> str:
    result = folder.result or {}
    found = result.get("data") or {}
    lines = []
    if result.get("after"):
        lines.append("- Measured on the held-out rows above and on nothing else; other data may give other numbers.")
    else:
        lines.append("- Nothing was measured after training.")
    lines.append("- Not examined: bias, safety, and behaviour on text unlike the training rows.")
    if found.get("labels"):
        lines.append("- It answers with one of the labels that it was trained on, also where none fits.")
    if longest := (found.get("train") or {}).get("longest"):
        lines.append(f"- The longest training row had {count(longest)} tokens.")
    lines.append("- What the base model's card and licence say holds here too.")
    return "\n".join(lines)
