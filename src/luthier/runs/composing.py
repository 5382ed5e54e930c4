"""Where a run's model is: the folder or id that its recipe names, or one composed of the towers that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.models.backbone import Backbone
from luthier.models.joined.compose import Towers, compose, is_bare, key_of
from luthier.models.load import load, unreadable
from luthier.models.locate import WEIGHTS_ONLY, locate
from luthier.recipe import ResolvedRecipe
from luthier.types import Finding, Refused

Locate = Callable[[str, Path], tuple[str, list[Finding]]]


def locate_model(
    resolved: ResolvedRecipe, find: Locate = locate, towers: Towers | None = None, scratch: Path | None = None
) -> tuple[str, list[Finding]]:
    """Its folder (or its id), and what is wrong with it. A composed one is made where it is not there yet: in the run's
    cache, or, of ``towers`` that are but a sketch, in ``scratch``."""
    model = resolved.recipe.model
    first = model.audio or model.image
    if first is None or model.text is None:
        path, findings = find(model.name, resolved.base)
        drawn = model.init == "random" and (Path(path) / "config.json").is_file()
        return path, [finding for finding in findings if not (drawn and finding.code in WEIGHTS_ONLY)]
    found = {role: find(name, resolved.base) for role, name in (("image", first), ("text", model.text))}
    findings = [
        finding
        for tower, some in found.values()
        for finding in some
        if not (model.init == "random" and is_bare(tower) and finding.code in WEIGHTS_ONLY)
    ]
    if model.init == "random" and not any(is_bare(tower) for tower, _ in found.values()):
        what = "both towers have weights, and `random` draws those of towers that have none"
        findings.append(Finding("model.random-drawn", "model.init", what, "leave `init` out"))
    if findings:
        return model.name, findings
    fuse, options = model.fusion
    paths = {role: path for role, (path, _) in found.items()}
    folder = Path(resolved.recipe.out) / ".cache" / f"composed-{key_of(_told(paths) | {'fuse': fuse, 'with': options})}"
    if not (folder / "config.json").is_file():
        folder = scratch / folder.name if scratch else folder
        try:
            compose(
                paths["image"], paths["text"], fuse, options, folder, listens=model.audio is not None, towers=towers
            )
        except Refused as refused:
            return model.name, refused.findings
        except (OSError, ValueError) as error:
            return model.name, [unreadable(model.name, error)]
    return str(folder), []


def open_base(
    resolved: ResolvedRecipe, path: str, like: Backbone, *, dtype: str, config: dict[str, Any] | None = None
) -> Backbone:
    """The model that a run begins with, opened beside the one that it made of it, ``like``: on its device, and reading
    and laying out rows as that one does. A head that it has new is drawn as the run drew it."""
    recipe = resolved.recipe
    found: Backbone = load(
        recipe.model.name, path, like.needs, revision=recipe.model.revision, config=config, dtype=dtype,
        seed=recipe.seed, init=recipe.model.init,
    )  # fmt: skip
    found.read_as(like)
    found.place(like.device)
    found.choose_layout(recipe.packing)
    return found


def _told(paths: dict[str, str]) -> dict[str, Any]:
    """What changes when a tower does: its path, and the sizes and dates of its files."""
    return {
        role: [
            path,
            [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(Path(path).glob("*"))],
        ]
        for role, path in paths.items()
    }
