"""Documents cut into passages, counted by hand with a token a word; and what an index does with them.

Vectors are given, not made: an entry's vector is two numbers in its text.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.search import flat_faiss, index
from luthier.search.index import Index, Source, build
from luthier.search.passages import Cut, cut_file, find_files, passages
from luthier.types import Refused


def cut(tokens: int, overlap: int) -> Cut:
    """A token is a word."""
    return Cut(lambda text: [found.span() for found in re.finditer(r"\S+", text)], tokens, overlap)


def texts(document: str, tokens: int, overlap: int) -> list[str]:
    return [document[a:b] for a, b in passages(document, cut(tokens, overlap))]


def test_paragraphs_that_fit_together_are_one_passage_and_the_last_begins_the_next() -> None:
    document = "a b\n\nc d\n\ne f\n\ng h\n"
    assert texts(document, 4, 0) == ["a b\n\nc d", "e f\n\ng h"]
    assert texts(document, 4, 2) == ["a b\n\nc d", "c d\n\ne f", "e f\n\ng h"]
    assert texts(document, 99, 2) == ["a b\n\nc d\n\ne f\n\ng h"]


def test_a_long_paragraph_is_cut_into_windows_that_overlap() -> None:
    assert texts("a b c d e f g h", 4, 1) == ["a b c d", "d e f g", "g h"]
    assert texts("a b c d e f g h", 4, 0) == ["a b c d", "e f g h"]
    assert texts("", 4, 1) == texts(" \n\n \n", 4, 1) == []


def test_a_word_is_not_cut_where_it_can_be_helped() -> None:
    """A token is a letter: of windows of five, the first ends before the word that would not fit."""
    letters = Cut(lambda text: [found.span() for found in re.finditer(r"\S", text)], 5, 0)
    document = "abc def abcdefgh"
    assert [document[a:b] for a, b in passages(document, letters)] == ["abc", "def", "abcde", "fgh"]


@pytest.mark.parametrize("overlap", [0, 40])
def test_a_document_of_100_000_tokens_is_covered_whole_and_in_order(overlap: int) -> None:
    """Every word in a passage, none over the limit, and each passage begins ``overlap`` words before the last's end."""
    document = " ".join(f"w{i}" for i in range(100_000))
    found = [[int(word[1:]) for word in text.split()] for text in texts(document, 200, overlap)]
    assert max(len(words) for words in found) == 200
    assert sorted({i for words in found for i in words}) == list(range(100_000))
    assert all(after[0] == before[-1] + 1 - overlap for before, after in pairwise(found))
    assert len(found) == {0: 500, 40: 625}[overlap]  # 200 + 160 n >= 100,000


def test_passages_tell_their_file_and_lines(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("a b\n\n\nc d\ne f\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "g h"}\n{"contexts": ["i", "j"]}\n', encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"")
    files, others = find_files(tmp_path)
    assert [Path(name).name for name in others] == ["picture.png"]
    found = [(one.text, one.line, one.last_line) for file in files for one in cut_file(file, file.name, cut(4, 0))]
    assert found == [("a b", 1, 1), ("c d\ne f", 4, 5), ("g h", 1, 1), ("i", 2, 2), ("j", 2, 2)]


def test_rows_without_text_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n{"text": "a"}\n{"other": "b"}\n', encoding="utf-8")
    with pytest.raises(Refused) as refused:
        cut_file(tmp_path / "rows.jsonl", "rows.jsonl", cut(4, 0))
    assert [finding.where for finding in refused.value.findings] == ["rows.jsonl:1", "rows.jsonl:3"]


def source(name: str, *lines: str) -> Source:
    return Source(name, digest="".join(lines), entries=lambda: [{"text": line, "file": name} for line in lines])


class Embed:
    """The numbers that a text spells; remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, entries: list[dict[str, Any]]) -> np.ndarray:
        self.seen += [entry["text"] for entry in entries]
        return np.array([[float(part) for part in entry["text"].split()] for entry in entries], dtype=np.float32)


def made(folder: Path, *sources: Source, embed: Embed | None = None, fingerprint: str = "one", **settings: Any) -> Any:
    settings = {"normalize": False, **settings}
    return build(folder, sources, embed or Embed(), made_by="model", fingerprint=fingerprint, settings=settings)


def test_search_is_by_product_and_equals_come_in_the_order_of_the_entries(tmp_path: Path) -> None:
    """Query (1, 2): products 1, 2, 3, 2."""
    made(tmp_path / "i", source("a", "1 0", "0 1", "1 1"), source("b", "2 0"))
    (found,) = Index.open(tmp_path / "i").search(np.array([[1.0, 2.0]]), 3)
    assert found == [(2, 3.0), (1, 2.0), (3, 2.0)]
    (all_of_them,) = Index.open(tmp_path / "i").search(np.array([[1.0, 2.0]]), 99)
    assert [entry for entry, _ in all_of_them] == [2, 1, 3, 0]


def test_a_text_that_stands_twice_is_found_once_and_tells_where_else_it_stands(tmp_path: Path) -> None:
    made(tmp_path / "i", source("a", "1 0", "0 1"), source("b", "1 0", "1 0"))
    opened = Index.open(tmp_path / "i")
    assert len(opened.entries) == 4
    (found,) = opened.search(np.array([[1.0, 0.0]]), 3)
    assert found == [(0, 1.0), (1, 0.0)]
    assert (opened.copies(0), opened.copies(1)) == ([2, 3], [])


def random_index(folder: Path, entries: int, width: int) -> Index:
    draw = np.random.default_rng(0)
    lines = [" ".join(map(str, row)) for row in draw.normal(size=(entries, width)).round(4).tolist()]
    made(folder, source("a", *lines, *lines[:5]))
    return Index.open(folder)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = random_index(tmp_path / "i", 50, 6)
    queries_QD = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    whole = opened.search(queries_QD, 7)
    products_QN = queries_QD @ opened.vectors()[:50].T
    assert [[i for i, _ in found] for found in whole] == np.argsort(-products_QN, kind="stable")[:, :7].tolist()
    monkeypatch.setattr(index, "BLOCK", 8)
    monkeypatch.setattr(index, "QUERIES", 2)
    for found, expected in zip(opened.search(queries_QD, 7), whole, strict=True):
        assert [i for i, _ in found] == [i for i, _ in expected]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_faiss_finds_what_the_exact_search_finds(k: int, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    opened = random_index(tmp_path / "i", 120, 16)
    queries_QD = np.random.default_rng(2).normal(size=(11, 16)).astype(np.float32)
    exact = opened.search(queries_QD, k)
    for found, expected in zip(flat_faiss.search(opened, queries_QD, k), exact, strict=True):
        assert [i for i, _ in found] == [i for i, _ in expected]
        np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)


def test_where_faiss_is_not_installed_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(Refused, match=r"luthier\[faiss\]"):
        flat_faiss.search(random_index(tmp_path / "i", 5, 4), np.zeros((1, 4), dtype=np.float32), 1)


def test_only_what_changed_is_embedded_again(tmp_path: Path) -> None:
    made(tmp_path / "i", source("a", "1 0"), source("b", "0 1"), source("gone", "3 3"))
    embed = Embed()
    built = made(tmp_path / "i", source("a", "1 0"), source("b", "0 2", "4 4"), source("c"), embed=embed)
    assert embed.seen == ["0 2", "4 4"]
    assert (built.kept, built.embedded, built.gone, built.empty) == (["a"], ["b", "c"], ["gone"], ["c"])
    assert Index.open(tmp_path / "i").vectors().tolist() == [[1, 0], [0, 2], [4, 4]]
    made(tmp_path / "i", source("a", "1 0"), embed=embed, tokens=9)  # other settings: all anew
    assert embed.seen == ["0 2", "4 4", "1 0"]


def test_an_index_is_refused_with_another_model_and_where_it_is_damaged_or_empty(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    with pytest.raises(Refused, match=r"index\.missing"):
        Index.open(folder)
    with pytest.raises(Refused, match=r"index\.empty"):
        made(folder, source("a"))
    made(folder, source("a", "1 0"))
    for act in (lambda: Index.open(folder, "two"), lambda: made(folder, source("a", "1 0"), fingerprint="two")):
        with pytest.raises(Refused, match=r"index\.other-model"):
            act()
    vectors = (folder / "vectors.safetensors").read_bytes()
    (folder / "vectors.safetensors").write_bytes(vectors[:-1] + b"\1")
    with pytest.raises(Refused, match=r"index\.corrupt"):
        Index.open(folder).vectors()
    (folder / "entries.jsonl").write_text(json.dumps({"text": "1 1"}) + "\n", encoding="utf-8")
    with pytest.raises(Refused, match=r"index\.corrupt"):
        Index.open(folder)


def test_a_build_killed_between_its_renames_leaves_the_index_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "i", Path.rename
    made(folder, source("a", "1 0"))

    def killed(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        made(folder, source("a", "0 1"))
    monkeypatch.undo()
    assert not folder.exists()
    assert Index.open(folder).entries[0]["text"] == "1 0"
    made(folder, source("a", "0 1"))
    assert Index.open(folder).entries[0]["text"] == "0 1"


def test_prefixes_of_matryoshka_vectors_are_of_length_1_again() -> None:
    """(3, 4, 12) cut to two numbers is (0.6, 0.8); without normalisation it stays (3, 4)."""
    vectors = np.array([[3.0, 4.0, 12.0]])
    assert index.fitted(vectors, 2, normalize=True).tolist() == [pytest.approx([0.6, 0.8])]
    assert index.fitted(vectors, 2, normalize=False).tolist() == [[3.0, 4.0]]
