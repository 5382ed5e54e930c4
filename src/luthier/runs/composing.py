"""Where a run's model is: the folder or id that its recipe names, or one composed of the towers that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.models.compose import compose, key_of
from luthier.models.load import unreadable
from luthier.models.locate import WEIGHTS_ONLY, locate
from luthier.recipe import ResolvedRecipe
from luthier.types import Finding, Refused

Locate = Callable[[str, Path], tuple[str, list[Finding]]]


def locate_model(resolved: ResolvedRecipe, find: Locate = locate) -> tuple[str, list[Finding]]:
    """Its folder (or its id), and what is wrong with it. A composed one is made where it is not there yet."""
    model = resolved.recipe.model
    if model.image is None or model.text is None:
        path, findings = find(model.name, resolved.base)
        drawn = model.init == "random" and (Path(path) / "config.json").is_file()
        return path, [finding for finding in findings if not (drawn and finding.code in WEIGHTS_ONLY)]
    found = {role: find(name, resolved.base) for role, name in (("image", model.image), ("text", model.text))}
    findings = [finding for _, some in found.values() for finding in some]
    if findings:
        return model.name, findings
    fuse, options = model.fusion
    paths = {role: path for role, (path, _) in found.items()}
    folder = Path(resolved.recipe.out) / ".cache" / f"composed-{key_of(_told(paths) | {'fuse': fuse, 'with': options})}"
    if not (folder / "config.json").is_file():
        try:
            compose(paths["image"], paths["text"], fuse, options, folder)
        except Refused as refused:
            return model.name, refused.findings
        except (OSError, ValueError) as error:
            return model.name, [unreadable(model.name, error)]
    return str(folder), []


def _told(paths: dict[str, str]) -> dict[str, Any]:
    """What changes when a tower does: its path, and the sizes and dates of its files."""
    return {
        role: [
            path,
            [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(Path(path).glob("*"))],
        ]
        for role, path in paths.items()
    }
