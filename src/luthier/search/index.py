"""An index: one vector for each entry, on disk, searched exactly.

    index/
      manifest.json        who made the vectors (fingerprint), settings, the files read and the rest, by sha256
      vectors.safetensors  "vectors" (N, D) fp32
      entries.jsonl        what each vector stands for

It is written aside and renamed whole. It remembers each file's entries, so that a file that did not change is not
embedded again. Vectors of two models don't compare: an index of another model is refused.

Axes: N entries, D width, Q queries, k results.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from luthier.types import Finding, Refused

FORMAT = 1
MANIFEST, VECTORS, ENTRIES = "manifest.json", "vectors.safetensors", "entries.jsonl"
BLOCK, QUERIES = 65_536, 256  # vectors and queries multiplied at a time in a search


@dataclass
class Index:
    """An index on disk, open for search. Vectors stay there until they are asked for.

    ``first_N`` is False for an entry that says what an earlier one says: a search finds such a text once.
    """

    folder: Path
    manifest: dict[str, Any]
    entries: list[dict[str, Any]]
    first_N: np.ndarray

    @classmethod
    def open(cls, folder: str | Path, fingerprint: str | None = None) -> Index:
        """Raises Refused where there is none, where it is damaged, or where another model made it."""
        folder = Path(folder)
        _recover(folder)
        if not (folder / MANIFEST).is_file():
            mend = "make it with `luthier index RUN documents/`"
            raise Refused(Finding("index.missing", str(folder), "there is no index here", mend))
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            lines = (folder / ENTRIES).read_bytes()
            whole = (folder / VECTORS).stat().st_size == manifest["vectors_bytes"]
            whole &= hashlib.sha256(lines).hexdigest() == manifest["entries_sha256"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            mend = "remove it, and make it again with `luthier index`"
            raise Refused(Finding("index.corrupt", str(folder), "this index is damaged", mend))
        if fingerprint is not None and manifest["fingerprint"] != fingerprint:
            raise Refused(_other_model(folder, manifest))
        entries = [json.loads(line) for line in lines.decode("utf-8").split("\n") if line]
        seen: dict[Any, int] = {}
        first_N = np.array([seen.setdefault(_content(entry), i) == i for i, entry in enumerate(entries)], dtype=bool)
        return cls(folder, manifest, entries, first_N)

    @property
    def width(self) -> int:
        return int(self.manifest["width"])

    def vectors(self) -> np.ndarray:
        """(N, D), all of them, their sum checked."""
        path = self.folder / VECTORS
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.manifest["vectors_sha256"]:
            mend = "remove it, and make it again with `luthier index`"
            raise Refused(Finding("index.corrupt", str(path), "these are not the vectors that were written", mend))
        return load_file(path)["vectors"]

    def search(self, queries_QD: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
        """The k entries of the largest product with each query, best first, equals in the order of the entries.

        Exact: every vector is looked at, ``BLOCK`` at a time, read from the file as they are needed.
        """
        queries_QD = fitted(queries_QD, self.width, normalize=bool(self.manifest["settings"].get("normalize", True)))
        best: list[list[tuple[int, float]]] = [[] for _ in queries_QD]
        with safe_open(self.folder / VECTORS, framework="np") as file:
            stored = file.get_slice("vectors")
            for start in range(0, len(self.entries), BLOCK):
                block_ND = stored[start : min(start + BLOCK, len(self.entries))]
                repeated_N = ~self.first_N[start : start + BLOCK]
                for some in (slice(at, at + QUERIES) for at in range(0, len(best), QUERIES)):
                    scores_QN = queries_QD[some] @ block_ND.T
                    scores_QN[:, repeated_N] = -np.inf
                    for found, scores_N in zip(best[some], scores_QN, strict=True):
                        found[:] = _merged(found, scores_N, start, k)
        return best

    def copies(self, entry: int) -> list[int]:
        """The other entries that say the same."""
        if self.first_N.all():
            return []
        said = _content(self.entries[entry])
        return [i for i in np.flatnonzero(~self.first_N).tolist() if _content(self.entries[i]) == said]


def _content(entry: dict[str, Any]) -> Any:
    return entry.get("text") or json.dumps(entry)


def _merged(found: list[tuple[int, float]], scores_N: np.ndarray, start: int, k: int) -> list[tuple[int, float]]:
    """The k best of those found so far and of a block; earlier entries before later ones of the same score."""
    if len(scores_N) > k:
        least = np.partition(scores_N, -k)[-k]
        places = np.flatnonzero(scores_N >= least)
    else:
        places = np.arange(len(scores_N))
    some = [(start + int(i), float(scores_N[i])) for i in places if np.isfinite(scores_N[i])]
    return sorted([*found, *some], key=lambda pair: (-pair[1], pair[0]))[:k]


def fitted(vectors_QD: np.ndarray, width: int, *, normalize: bool) -> np.ndarray:
    """The first ``width`` numbers of each vector, at length 1 again where the index has such."""
    short_QD = np.ascontiguousarray(vectors_QD[:, :width], dtype=np.float32)
    if normalize and width < vectors_QD.shape[1]:
        short_QD = short_QD / np.maximum(np.linalg.norm(short_QD, axis=1, keepdims=True), 1e-12)
    return short_QD


@dataclass
class Source:
    """What entries come from: its name in the index, a digest of its content, and how to make its entries."""

    name: str
    digest: str
    entries: Callable[[], list[dict[str, Any]]]


@dataclass
class Built:
    """How a build went: how many entries there are, and which sources were embedded, kept, are gone or hold nothing."""

    entries: int = 0
    width: int = 0
    embedded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def build(
    folder: Path,
    sources: Sequence[Source],
    embed: Callable[[list[dict[str, Any]]], np.ndarray],
    *,
    made_by: str,
    fingerprint: str,
    settings: dict[str, Any],
) -> Built:
    """Write an index of the sources, in their order; ``embed(entries)`` gives (n, D).

    Where one of the same model and settings is there, sources of the same digest are taken over. Raises Refused for an
    index of another model, or for no entries at all.
    """
    old = _old(folder, fingerprint, settings)
    built = Built()
    entries: list[dict[str, Any]] = []
    parts: list[np.ndarray] = []
    files: dict[str, Any] = {}
    for source in sources:
        known = old.get(source.name)
        if known is not None and known[0] == source.digest:
            made, vectors = known[1], known[2]
            built.kept.append(source.name)
        else:
            made = source.entries()
            vectors = embed(made) if made else np.zeros((0, 0), dtype=np.float32)
            built.embedded.append(source.name)
        files[source.name] = {"sha256": source.digest, "first": len(entries), "count": len(made)}
        built.empty += [] if made else [source.name]
        entries += made
        parts += [vectors] if made else []
    built.gone = [name for name in old if name not in files]
    if not entries:
        raise Refused(Finding("index.empty", str(folder), "there is no text in what is to be found", "give some"))
    vectors_ND = np.concatenate(parts).astype(np.float32)
    built.entries, built.width = vectors_ND.shape
    told = {"format": FORMAT, "made_by": made_by, "fingerprint": fingerprint, "settings": settings, "files": files}
    _write(folder, told, entries, vectors_ND)
    return built


def _old(folder: Path, fingerprint: str, settings: dict[str, Any]) -> dict[str, tuple[str, list[Any], np.ndarray]]:
    """Digest, entries and vectors of each source of the index that is there; none where its settings were others."""
    _recover(folder)
    if not folder.exists():
        return {}
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise Refused(Finding("copy.exists", str(folder), "this folder exists and is no index", "give another `--to`"))
    if not (folder / MANIFEST).is_file():
        return {}
    index = Index.open(folder, fingerprint)
    if index.manifest["settings"] != settings:
        return {}
    vectors_ND = index.vectors()
    found = {}
    for name, told in index.manifest["files"].items():
        those = slice(told["first"], told["first"] + told["count"])
        found[name] = (told["sha256"], index.entries[those], vectors_ND[those])
    return found


def _write(folder: Path, told: dict[str, Any], entries: list[dict[str, Any]], vectors_ND: np.ndarray) -> None:
    """Aside, synced, then renamed in place of what was there."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()
    (partial / ENTRIES).write_bytes(lines)
    save_file({"vectors": vectors_ND}, partial / VECTORS)
    told = told | {
        "count": len(entries),
        "width": vectors_ND.shape[1],
        "entries_sha256": hashlib.sha256(lines).hexdigest(),
        "vectors_sha256": hashlib.sha256((partial / VECTORS).read_bytes()).hexdigest(),
        "vectors_bytes": (partial / VECTORS).stat().st_size,
    }
    (partial / MANIFEST).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    before = _before(folder)
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    partial.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _before(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.before")


def _recover(folder: Path) -> None:
    """Where a build was killed between its two renames, the index that was there is put back."""
    if not folder.exists() and _before(folder).is_dir():
        _before(folder).rename(folder)


def _other_model(folder: Path, manifest: dict[str, Any]) -> Finding:
    what = f"this index was made by {manifest['made_by']} ({manifest['fingerprint'][:8]}…), which is another model"
    mend = "search it with that one, or make another index (`luthier index MODEL documents/ --to ...`)"
    return Finding("index.other-model", str(folder), what, mend, "vectors of two models don't compare")
