"""``luthier index`` and ``luthier search``: one's own documents, found by what they mean, with a run or any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from luthier.runs.finding import gallery
from luthier.runs.finding.embedder import Embedder, open_embedder
from luthier.search import flat_faiss
from luthier.search.index import Built, Index, Source, build, fitted
from luthier.search.passages import Cut, cut_file, file_digest, find_files
from luthier.types import Finding, Refused

TOKENS, OVERLAP = 200, 40


def default_folder(model: str) -> Path:
    """Where the index of a run or a model is, where none is named: in the run's folder, or beside runs."""
    if (Path(model) / "run.json").is_file():
        return Path(model) / "index"
    return Path("runs") / f"index-{model.rstrip('/').replace(':', '/').split('/')[-1]}"


def index(
    model: str, documents: str, to: str | None = None, *, tokens: int | None = None, overlap: int | None = None,
    size: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make (or bring up to date) the index of a folder or file of documents.

    ``tokens`` of a passage, ``overlap`` of one with the next, ``size``: the first so many numbers of each vector, for
    models that were trained to bear it (matryoshka). Raises Refused.
    """
    folder = Path(to) if to else default_folder(model)
    if gallery.is_matcher(model):
        for name, given in (("--tokens", tokens), ("--overlap", overlap), ("--size", size)):
            if given is not None:
                what = f"`{name}` is for documents, and {model} indexes pictures and what is said of them"
                raise Refused(Finding("index.pictures", name, what, "leave it out"))
        return gallery.index(model, documents, folder)
    root = Path(documents)
    files, others = find_files(root)
    embedder = open_embedder(model)
    tokens = min(TOKENS, embedder.room) if tokens is None else tokens
    overlap = min(OVERLAP, tokens // 4) if overlap is None else overlap
    _check(embedder, tokens, overlap, size)
    cut = Cut(lambda text: _spans(embedder, text), tokens, overlap)
    normalize = embedder.settings.normalize
    width = size or embedder.backbone.width

    def embed(entries: list[dict[str, Any]]) -> np.ndarray:
        return fitted(embedder.passages([entry["text"] for entry in entries]), width, normalize=normalize)

    def source(file: Path) -> Source:
        shown = str(file)
        return Source(shown, file_digest(file), lambda: [one.as_dict() for one in cut_file(file, shown, cut)])

    settings = {"tokens": tokens, "overlap": overlap, "width": width, "normalize": normalize}
    built: Built = build(
        folder, [source(file) for file in files], embed, made_by=model, fingerprint=embedder.fingerprint,
        settings=settings,
    )  # fmt: skip
    return {"folder": str(folder), **vars(built), "not_read": others, **settings}


def indexed_by(folder: str | Path) -> str:
    """The run or model that made an index: the run whose folder it is in, wherever that is now, or as it was named."""
    beside = Path(folder).resolve().parent
    if (beside / "run.json").is_file():
        return str(beside)
    return str(Index.open(folder).manifest["made_by"])


def _check(embedder: Embedder, tokens: int, overlap: int, size: int | None) -> None:
    findings = []
    most = embedder.room
    if not 0 < tokens <= most:
        what = f"passages of {tokens} tokens don't fit: {embedder.name} takes {most}"
        findings.append(Finding("index.tokens", "--tokens", what, f"give 1 to {most}"))
    if not 0 <= overlap < tokens:
        what = f"an overlap of {overlap} tokens is none of passages of {tokens}"
        findings.append(Finding("index.overlap", "--overlap", what, f"give 0 to {max(0, tokens - 1)}"))
    if size is not None and not 0 < size <= embedder.backbone.width:
        what = f"vectors of {embedder.name} have {embedder.backbone.width} numbers, not {size}"
        findings.append(Finding("index.size", "--size", what, f"give 1 to {embedder.backbone.width}"))
    if findings:
        raise Refused(*findings)


def _spans(embedder: Embedder, text: str) -> list[tuple[int, int]]:
    told = embedder.backbone.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(a, b) for a, b in told["offset_mapping"] if b > a]


class Searcher:
    """A model with its index, ready for questions."""

    def __init__(self, model: str, folder: str | Path | None = None, *, backend: str = "exact"):
        self.embedder = open_embedder(model)
        self.index = Index.open(folder or default_folder(model), self.embedder.fingerprint)
        self.backend = backend

    def __call__(self, queries: list[str], k: int) -> list[list[dict[str, Any]]]:
        """For each query the k best entries, with their score."""
        if empty := [i for i, query in enumerate(queries) if not query.strip()]:
            raise Refused(Finding("search.empty", f"query {empty[0] + 1}", "the query is empty", "say what is sought"))
        vectors_QD = self.embedder.queries(queries)
        found = self.index.search(vectors_QD, k) if self.backend == "exact" else flat_faiss.search(
            self.index, vectors_QD, k
        )  # fmt: skip
        return [[self._told(i, score) for i, score in one] for one in found]

    def _told(self, entry: int, score: float) -> dict[str, Any]:
        """An entry with its score, and where else it stands."""
        told = {**self.index.entries[entry], "score": round(score, 6)}
        copies = [self.index.entries[i] for i in self.index.copies(entry)]
        return told | ({"also": [f"{one['file']}:{one['line']}" for one in copies]} if copies else {})


def search(
    model: str, query: str, k: int = 5, *, folder: str | None = None, backend: str = "exact", find: str = ""
) -> list[dict[str, Any]]:
    """The k passages that are nearest to a query in meaning: text, file, line, score; of pictures see
    ``runs/finding/gallery.py``. Raises Refused."""
    if k < 1:
        raise Refused(Finding("search.k", "-k", f"{k} passages can't be shown", "give 1 or more"))
    place = Path(folder) if folder else default_folder(model)
    if gallery.kind_of(place) == "pictures":
        return gallery.search(model, query, k, place, find)
    if find:
        what = "this index has passages of documents alone"
        raise Refused(Finding("search.find", "--find", what, "leave it out, or index pictures with a run of `match`"))
    return Searcher(model, folder, backend=backend)([query], k)[0]
