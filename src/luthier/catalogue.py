"""What there is: tasks, methods, objectives, ready recipes, runs."""

from __future__ import annotations

import difflib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.tasks import TASKS
from luthier.types import Finding, Refused

RECIPES = Path(__file__).parent / "recipes"


def catalogue(out: Path, what: str | None = None) -> dict[str, list[dict[str, Any]]]:
    registries = {"tasks": TASKS, "methods": METHODS, "objectives": OBJECTIVES}
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, registry in registries.items():
        if what in (None, kind):
            found[kind] = [{"name": name, "what": text} for name, text in registry.describe()]
    if what in (None, "recipes"):
        found["recipes"] = [
            {"name": path.stem, "what": _first_comment(path)} for path in sorted(RECIPES.glob("*.yaml"))
        ]
    if what in (None, "runs"):
        found["runs"] = [_run(path.parent) for path in sorted(out.glob("*/run.json"))]
    return found


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n")[0].removeprefix("#").strip()


def _run(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except ValueError:
        return {"name": str(folder), "what": "damaged: its run.json can't be read", "status": "damaged"}
    result = folder / "result.json"
    told = f"{info['status']}; {info['task']}, {info['method']}, {info['model']['name']}"
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        after = (found["after"] or {}).get(found["metric"])
        told += f"; {found['metric']} {after['value']:.4f}" if after else ""
    return {"name": str(folder), "what": told, "status": info["status"]}


def find_recipe(name: str) -> Path:
    """The file of a ready recipe. Raises Refused with the nearest name."""
    path = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = [found.stem for found in RECIPES.glob("*.yaml")]
        near = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(sorted(known))}"
        raise Refused(Finding("recipe.missing", name, f"there is no ready recipe {name!r}", mend))
    return path


def copy_recipe(name: str, to: Path) -> list[Path]:
    """Copy a recipe, the data files and towers that it names, pictures beside them and documents beside an index.

    Refused rather than overwrite.
    """
    source = find_recipe(name)
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    files = [source.name]
    for one in (values, *(values.get("stages") or {}).values()):
        data, model = one.get("data") or {}, one.get("model")
        named = [data] if isinstance(data, str) else [value for value in data.values() if isinstance(value, str)]
        files += [file for file in named if (RECIPES / file).is_file()]
        folders = [Path(data["index"]).parent] if "index" in data else []
        folders += [Path(file).parent for file in named if any((RECIPES / file).parent.glob("*.png"))]
        towers = [model.get(role) for role in ("image", "text")] if isinstance(model, dict) else []
        folders += [Path(tower) for tower in towers if tower and (RECIPES / tower).is_dir()]
        for beside in folders:
            files += [str(beside / path.name) for path in sorted((RECIPES / beside).iterdir()) if path.is_file()]
    files = list(dict.fromkeys(files))
    there = [to / file for file in files if (to / file).exists()]
    if there:
        what = f"{', '.join(map(str, there))} exist(s) already"
        raise Refused(Finding("copy.exists", str(to), what, "give another folder"))
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(RECIPES / file, to / file)
    return [to / file for file in files]


def shortened(written: list[Path], most: int = 20) -> list[str]:
    """Paths, with one line for those of a folder and an ending that are more than ``most``."""
    like: dict[Path, list[Path]] = {}
    for path in written:
        like.setdefault(path.parent / f"*{path.suffix}", []).append(path)
    lines = ([f"{name} ({len(some)} files)"] if len(some) > most else map(str, some) for name, some in like.items())
    return [line for several in lines for line in several]
