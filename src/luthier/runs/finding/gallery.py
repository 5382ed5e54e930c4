"""``luthier index`` and ``luthier search`` over pictures and what is said of them: by words, or by a picture.

A folder's pictures are entries ``{"image": path}``; the lines of its text files, and the captions of its files of rows,
are entries ``{"text", "file", "line"}``. Both have vectors in one space, made by a run of `match` or a model such as
CLIP as it came.

Axes: N entries, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from luthier.data.files.read import READERS, suffix_of
from luthier.data.formats.audio import ENDINGS as HEARD
from luthier.data.formats.choose import ReadResult, read_examples
from luthier.data.media.pictures import ENDINGS, BadPicture, missing
from luthier.engine.precision import choose_matmul
from luthier.evaluate.outputs import MICRO_TOKENS, Reader
from luthier.models.audio.sounds import Clip
from luthier.models.joined.dual import DualBackbone, compares
from luthier.models.joined.registered import register_composed
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.objectives import objective_class
from luthier.objectives.image_text import Options
from luthier.runs.run import Run
from luthier.search.index import Index, Source, build
from luthier.search.passages import file_digest
from luthier.tasks import TASKS
from luthier.types import INLINE, Example, Finding, Refused

TEXTS = (".txt", ".md")
ROWS = 512  # entries encoded at a time


@dataclass
class Matcher:
    """A model that gives a vector of a picture and of a text; ``fingerprint`` tells it from any other.

    ``columns``: how the rows that it learned from name theirs.
    """

    name: str
    backbone: DualBackbone
    objective: Any
    reader: Reader
    fingerprint: str
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the files that it sees, or hears."""
        return HEARD if self.backbone.sounds else ENDINGS

    def vectors(self, examples: Sequence[Example]) -> np.ndarray:
        """(N, D) of length 1; each example is a picture alone or a text alone."""
        found: list[Any] = []
        for start in range(0, len(examples), ROWS):
            some = examples[start : start + ROWS]
            rows = [row | {"row": i} for i, example in enumerate(some) for row in self.objective.encode(example)]
            found += [vector[0].numpy() for vector in self.reader.outputs(self.objective, rows)]
        return np.stack(found)


def is_matcher(model: str) -> bool:
    """Whether a run or a model compares pictures with texts."""
    run = Path(model) / "run.json"
    if run.is_file():
        return Run(model).info.get("needs") == "vectors"
    path, missing = locate(model, Path.cwd())
    register_composed()
    try:
        return not missing and compares(AutoConfig.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError):
        return False


def open_matcher(model: str) -> Matcher:
    if (Path(model) / "run.json").is_file():
        run = Run(model)
        weights = sorted((run.folder / "final").rglob("*.safetensors"))
        told = [run.predictor.backbone.fingerprint, *(file_digest(path) for path in weights)]
        opened, columns = run.predictor, run.resolved.recipe.data.columns
        return Matcher(model, opened.backbone, opened.objective, opened.reader, _fingerprint(told), columns)  # type: ignore[arg-type]
    path, _ = locate(model, Path.cwd())
    backbone = load(model, path, "vectors")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.place(device)
    backbone.choose_layout("auto")
    module = TASKS.load("match")
    objective = objective_class("image_text", "image_text")(Options.model_validate({}), backbone, None)
    limit = min(n for n in (backbone.max_positions, backbone.tokenizer.model_max_length) if n)
    objective.encoder = module.Task(module.Options()).encoder(backbone, limit, "truncate")
    reader = Reader(backbone, MICRO_TOKENS[device.type], matmul=choose_matmul("auto", device)[0])
    return Matcher(model, backbone, objective, reader, _fingerprint([backbone.fingerprint]))


def _fingerprint(told: list[str]) -> str:
    return hashlib.sha256("|".join(told).encode()).hexdigest()[:32]


def index(model: str, documents: str, folder: Path) -> dict[str, Any]:
    """Make, or bring up to date, an index of a folder of pictures and texts. Raises Refused, for every bad picture."""
    root = Path(documents)
    if not root.exists():
        raise Refused(Finding("index.missing", str(root), "there is no such file or folder", "give the pictures"))
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    matcher = open_matcher(model)
    shown = matcher.endings
    kept = [path for path in files if path.suffix.lower() in (*shown, *TEXTS) or suffix_of(path.name) in READERS]
    if not kept:
        mend = f"known: {', '.join((*shown, *TEXTS, *READERS))}"
        raise Refused(Finding("index.empty", str(root), "there is no picture or text here", mend))
    _check(matcher, [path for path in kept if path.suffix.lower() in shown])

    def embed(entries: list[dict[str, Any]]) -> np.ndarray:
        return matcher.vectors([_example(entry) for entry in entries])

    sources = [Source(str(path), file_digest(path), lambda path=path: _entries(path, matcher)) for path in kept]  # type: ignore[misc]
    built = build(
        folder, sources, embed, made_by=model, fingerprint=matcher.fingerprint,
        settings={"normalize": True, "kind": "pictures", "base": str(Path.cwd())},
    )  # fmt: skip
    entries = Index.open(folder).entries
    return {
        "folder": str(folder), **vars(built), "not_read": [str(path) for path in files if path not in kept],
        "pictures": sum(_is_shown(entry) for entry in entries), "texts": sum("text" in entry for entry in entries),
    }  # fmt: skip


def _check(matcher: Matcher, paths: list[Path]) -> None:
    pictures = matcher.backbone.pictures
    pictures.prepare(paths)
    if matcher.backbone.sounds is not None:
        matcher.backbone.sounds.prepare(Clip(path) for path in paths)
    findings = []
    for path in paths:
        try:
            pictures.key(path)
        except BadPicture as bad:
            code = "data.sound" if matcher.backbone.sounds else "data.picture"
            findings.append(Finding(code, str(path), f"it {bad.what}", f"{bad.mend}, or move it away"))
    if findings:
        raise Refused(*findings)


def _is_shown(entry: dict[str, Any]) -> bool:
    """A picture, or a sound."""
    return "image" in entry or "audio" in entry


def _entries(path: Path, matcher: Matcher) -> list[dict[str, Any]]:
    if path.suffix.lower() in matcher.endings:
        return [{"audio" if matcher.backbone.sounds else "image": str(path)}]
    if path.suffix.lower() in TEXTS:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        return [{"text": line.strip(), "file": str(path), "line": n} for n, line in enumerate(lines, 1) if line.strip()]
    read = _captions(path, matcher)
    if read is None:
        return []
    if errors := [finding for finding in read.findings if finding.severity == "error"]:
        raise Refused(*errors)
    return [
        {"text": caption, "file": str(path), "line": example.source.line}
        for example in read.examples
        for caption in example.targets or []
    ]


def _captions(path: Path, matcher: Matcher) -> ReadResult | None:
    """Rows with what is said of pictures (or of sounds); None where most rows of a file say nothing of any."""
    fmt = "audio-text" if matcher.backbone.sounds else "image-caption"
    for columns in ([matcher.columns] if matcher.columns else []) + [{}]:
        read = read_examples(str(path.resolve()), base=Path("/"), columns=columns, prefer=[fmt])
        if read.format == fmt:
            return read
    unknown = ("data.unknown-format", "data.mixed-formats")
    return read if read.format is None and any(one.code not in unknown for one in read.findings) else None


def _example(entry: dict[str, Any]) -> Example:
    if "image" in entry:
        return Example(INLINE, images=[Path(entry["image"])])
    if "audio" in entry:
        return Example(INLINE, sounds=[Path(entry["audio"])])
    return Example(INLINE, targets=[entry["text"]])


def search(model: str, query: str, k: int, folder: Path, find: str = "") -> list[dict[str, Any]]:
    """The k nearest entries to a text, or to the picture that ``query`` is the path of.

    ``find``: "pictures" or "texts"; default: pictures, where there are any.
    """
    if not query.strip():
        raise Refused(Finding("search.empty", "query", "the query is empty", "say what is sought"))
    matcher = open_matcher(model)
    found = Index.open(folder, matcher.fingerprint)
    of_picture_N = np.array([_is_shown(entry) for entry in found.entries], dtype=bool)
    wanted_N = (
        of_picture_N if (find or ("pictures" if of_picture_N.any() else "texts")) == "pictures" else ~of_picture_N
    )
    if not wanted_N.any():
        there = "pictures" if of_picture_N.any() else "texts"
        raise Refused(Finding("search.find", "--find", f"there are no {find} in this index", f"leave it out: {there}"))
    found.first_N = found.first_N & wanted_N
    is_picture = Path(query).suffix.lower() in matcher.endings and Path(query).is_file()
    if lost := missing(query, matcher.endings):
        raise Refused(lost)
    if is_picture:
        _check(matcher, [Path(query)])
    kind = "audio" if matcher.backbone.sounds else "image"
    example = _example({kind: query} if is_picture else {"text": query})
    (best,) = found.search(matcher.vectors([example]), k)
    base = Path(found.manifest["settings"].get("base", ""))
    return [{**_placed(found.entries[at], base), "score": round(score, 6)} for at, score in best]


def _placed(entry: dict[str, Any], base: Path) -> dict[str, Any]:
    """An entry whose file is found from any folder: its path is relative to the one that the index was made in."""
    return {
        key: str(base / value) if key in ("image", "audio", "file") and not Path(value).exists() else value
        for key, value in entry.items()
    }


def kind_of(folder: Path) -> str:
    """ "pictures" for an index that this file made, else ""."""
    path = folder / "manifest.json"
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["settings"].get("kind", ""))
    except (ValueError, KeyError):
        return ""
