"""A run's folder: where it is, what is written in it first, and JSON that is written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from luthier.engine.precision import machine
from luthier.models.vision.pictures import backend_of
from luthier.runs.beside.teacher import teacher_of
from luthier.runs.prepared import Prepared
from luthier.runs.run import read_info

FORMAT = 1


def find_folder(prepared: Prepared) -> Path:
    """The folder of this very recipe and data if there is one (to go on, or because it is done), else a free name."""
    first = first_folder(prepared)
    number = 1
    while True:
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        path = folder / "run.json"
        if not path.is_file() or read_info(path)["recipe_hash"] == prepared.identity:
            return folder
        number += 1


def first_folder(prepared: Prepared) -> Path:
    """The folder that is looked at first: others have a number after its name."""
    recipe = prepared.resolved.recipe
    model = recipe.model.name.rstrip("/").replace(":", "/").split("/")[-1]
    return Path(recipe.out) / (recipe.name or f"{recipe.task}-{model}-{prepared.resolved.methods.name}".lower())


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all, also after a power cut."""
    partial = path.with_suffix(".tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, default=str))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def set_status(folder: Path, status: str, **more: Any) -> None:
    info = read_info(folder / "run.json")
    write_json(folder / "run.json", info | {"status": status, **more})


_version = cache(version)  # each reads the whole description of a package


def describe(prepared: Prepared, device: torch.device, folder: Path) -> dict[str, Any]:
    """run.json, as it is when a run begins."""
    recipe, backbone, teacher = prepared.resolved.recipe, prepared.backbone, teacher_of(prepared.objective)
    taught = {"name": teacher.name, "fingerprint": teacher.fingerprint, "of": prepared.untaught} if teacher else None
    packages = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy", "scikit-learn")
    return {
        "format": FORMAT,
        "name": folder.name,
        "status": "running",
        "task": recipe.task,
        "method": prepared.resolved.methods.name,
        "objective": recipe.objective,
        "needs": prepared.objective.needs,
        "teacher": taught,
        "model": {
            "name": recipe.model.name,
            "path": backbone.path,
            "parameters": sum(p.numel() for p in backbone.model.parameters()),
            "layout": backbone.layout,
            "encoder_decoder": backbone.encoder_decoder,
            "fingerprint": backbone.fingerprint,
            "class": f"{type(backbone.model).__module__}.{type(backbone.model).__name__}",
            "reads": [
                kind
                for kind, yes in (
                    ("image", backbone.pictures and not backbone.sounds),
                    ("audio", backbone.sounds),
                    ("text", backbone.reads_text),
                )
                if yes
            ],
            **backbone.described(),
        },
        "luthier": _version("luthier"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}, **_readers()},
        "machine": {
            "device": str(device),
            "name": machine(device),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "precision": recipe.precision,
            "matmul": recipe.matmul,
            "image_backend": backend_of(backbone.pictures) or None,
        },
        "created": datetime.now().isoformat(timespec="seconds"),
        "recipe_hash": prepared.identity,
    }


def _readers() -> dict[str, str]:
    """The versions of what reads pictures, of those that are installed."""
    found = {}
    for name in ("pillow", "torchvision"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
