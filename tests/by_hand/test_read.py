"""Files written by hand, byte by byte; the rows, lines and findings that they must give."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from luthier.data.files.read import bad_rows, read_rows
from luthier.types import Finding


def read(folder: Path, name: str, content: bytes | None = None, **settings: Any) -> tuple[list[Any], list[Finding]]:
    """(rows as (line, row), findings) of a file with this content."""
    if content is not None:
        (folder / name).write_bytes(content)
    rows, findings = read_rows(name, base=folder, **settings)
    assert all(source.file.startswith(name) for source, _ in rows)
    return [(source.line, row) for source, row in rows], findings


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in findings]


PLAIN = {
    "a.jsonl": b'{"text": "one"}\n\n{"text": "two"}\n',
    "a.ndjson": b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}',
    "a.json": b'[{"text": "one"},\n\n {"text": "two"}]',
    "a.csv": b"text\none\n\ntwo\n",
    "a.tsv": b"\xef\xbb\xbftext\tn\none\t1\n\ntwo\t2\n",
}
LINES = {"a.jsonl": [1, 3], "a.ndjson": [1, 3], "a.json": [1, 3], "a.csv": [2, 4], "a.tsv": [2, 4]}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_each_kind_keeps_the_physical_line(tmp_path: Path, name: str, zipped: bool) -> None:
    """Blank lines are no rows but count as lines; a byte order mark is no part of the first name."""
    content = gzip.compress(PLAIN[name]) if zipped else PLAIN[name]
    rows, findings = read(tmp_path, name + ".gz" * zipped, content)
    assert findings == []
    assert [line for line, _ in rows] == LINES[name]
    assert [row["text"] for _, row in rows] == ["one", "two"]


def test_parquet_counts_rows_from_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "label": [0, None]}), tmp_path / "a.parquet")
    rows, findings = read(tmp_path, "a.parquet")
    assert rows == [(1, {"text": "one", "label": 0}), (2, {"text": "two", "label": None})]
    assert findings == []
    whole = (tmp_path / "a.parquet").read_bytes()
    rows, findings = read(tmp_path, "cut.parquet", whole[: len(whole) // 2])
    assert (rows, codes(findings)) == ([], [("data.malformed", "cut.parquet:1")])


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _, findings = read(tmp_path, "a.parquet", b"PAR1")
    assert codes(findings) == [("data.needs-extra", "a.parquet")]
    assert 'pip install "luthier[data]"' in str(findings[0])


def test_text_is_one_row(tmp_path: Path) -> None:
    rows, findings = read(tmp_path, "a.txt", b"\xef\xbb\xbfOne.\r\n\r\nTwo.\n")
    assert rows == [(1, {"text": "One.\n\nTwo.\n"})]
    assert findings == []


def test_every_malformed_line_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    """Line 2 opens its string at column 10 and never closes it; lines 3 and 4 are JSON but no objects; line 5 is
    Python; line 6 holds half a surrogate pair, which no tokenizer can encode."""
    lines = ['{"text": "one"}', '{"text": "two', "[1, 2]", '"three"', '{"text": None}', r'{"text": "\ud83d"}']
    content = "\n".join([*lines, r'{"text": "\ud83d\ude00"}']).encode()
    rows, findings = read(tmp_path, "a.jsonl", content)
    assert rows == [(1, {"text": "one"}), (7, {"text": "😀"})]
    assert codes(findings) == [("data.malformed", f"a.jsonl:{line}") for line in (2, 3, 4, 5, 6)]
    assert "column 10" in findings[0].what
    assert "closed" in findings[0].mend
    assert "a list" in findings[1].what
    assert "None" in findings[3].mend
    assert len(rows) + bad_rows(findings) == 7


def test_an_excerpt_has_sixty_characters_around_the_place(tmp_path: Path) -> None:
    """The value is missing at character 100 of a long line: shown are characters 70 to 129."""
    line = '{"text": "' + "a" * 78 + '", "label":' + "}" + "z" * 100
    assert line.index("}") + 1 == 100
    _, findings = read(tmp_path, "a.jsonl", line.encode())
    assert f"column 100 (Expecting value): '{line[69:129]}'" in findings[0].what


def test_too_many_bad_rows_stop_the_reading(tmp_path: Path) -> None:
    rows, findings = read(tmp_path, "a.jsonl", b'{"a": 1}\n' + b"{\n" * 50, limit_bad=3)
    assert len(rows) == 1
    assert codes(findings)[2:] == [("data.malformed", "a.jsonl:4"), ("data.too-many-bad", "a.jsonl")]


@pytest.mark.parametrize(
    ("content", "offset", "guess"),
    [
        (b'{"a": "x"}\n{"a": "caf\xe9"}\n{"a": "y"}\n', 21, "Windows-1252"),
        (b'{"a": "x"}\n{"a": "\x81"}\n{"a": "y"}\n', 18, "Latin-1"),
    ],
)
def test_a_line_that_is_not_utf8(tmp_path: Path, content: bytes, offset: int, guess: str) -> None:
    """Line 2 starts at byte 11; its text 7 bytes later, and é 3 bytes after that. 0x81 is unused in Windows-1252."""
    rows, findings = read(tmp_path, "a.jsonl", content)
    assert [line for line, _ in rows] == [1, 3]
    assert codes(findings) == [("data.encoding", "a.jsonl:2")]
    assert f"byte {offset} of the file" in findings[0].what
    assert guess in findings[0].what


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
def test_utf16_is_named_once(tmp_path: Path, name: str) -> None:
    rows, findings = read(tmp_path, name, "text\none\ntwo\n".encode("utf-16"))
    assert (rows, codes(findings)) == ([], [("data.encoding", f"{name}:1")])
    assert "UTF-16" in findings[0].what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\n\n"),
        ("a.csv", b"text,label\n"),
        ("a.tsv", b""),
        ("a.json", b"[]"),
        ("a.txt", b" \n"),
        ("a.json", b""),
    ],
)
def test_a_file_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    assert codes(read(tmp_path, name, content)[1]) == [("data.empty", name)]


def test_json_may_hold_its_rows_under_a_name(tmp_path: Path) -> None:
    """The rows stand in lines 2 and 4. A name that occurs twice gives no sure place: the rows are then numbered."""
    rows, _ = read(tmp_path, "a.json", b'{"version": "1", "data": [\n {"a": "b, c"},\n\n {"a": 2}]}')
    assert rows == [(2, {"a": "b, c"}), (4, {"a": 2})]
    rows, _ = read(tmp_path, "b.json", b'{"x": {"data": []},\n "data": [\n {"a": 1},\n\n {"a": 2}]}')
    assert rows == [(1, {"a": 1}), (2, {"a": 2})]
    rows, _ = read(tmp_path, "c.json", b'{"messages": [{"role": "user", "content": "x"}]}')
    assert [(line, list(row)) for line, row in rows] == [(1, ["messages"])]


def test_json_lines_under_a_json_name(tmp_path: Path) -> None:
    rows, findings = read(tmp_path, "a.json", b'{"a": 1}\n{"a": 2}\n')
    assert (rows, findings) == ([(1, {"a": 1}), (2, {"a": 2})], [])


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'[{"a": 1},\n {"a": }]', "a.json:2"),
        (b'[{"a": 1},\n 7]', "a.json:2"),
        (b'{"train": [{"a": 1}], "test": [{"a": 1}]}', "a.json:1"),
        (b'"text"', "a.json:1"),
        (b"[" * 100_000, "a.json:1"),
    ],
)
def test_json_that_is_no_list_of_rows(tmp_path: Path, content: bytes, where: str) -> None:
    assert codes(read(tmp_path, "a.json", content)[1]) == [("data.malformed", where)]


def test_csv_rows_start_where_their_record_starts(tmp_path: Path) -> None:
    """The record of line 2 spans lines 2 and 3; those of lines 4 and 5 have one field too few and one too many."""
    content = b'text,label\n"one,\nstill one",1\nshort\nlong,2,3\nlast,4\n'
    rows, findings = read(tmp_path, "a.csv", content)
    assert rows == [(2, {"text": "one,\nstill one", "label": "1"}), (6, {"text": "last", "label": "4"})]
    assert codes(findings) == [("data.malformed", "a.csv:4"), ("data.malformed", "a.csv:5")]
    assert "1 fields" in findings[0].what
    assert "3 fields" in findings[1].what


def test_csv_quote_never_closed_is_not_swallowed(tmp_path: Path) -> None:
    """Python's reader, left alone, makes one field of everything after a quote that opens at a field's start."""
    rows, findings = read(tmp_path, "a.csv", b'label,text\n1,one\n2,"two\n3,three\n4,four\n')
    assert rows == [(2, {"label": "1", "text": "one"})]
    assert codes(findings) == [("data.malformed", "a.csv:3")]
    assert "lines 3 to 5" in findings[0].what


def test_csv_other_trouble(tmp_path: Path) -> None:
    """A long field is read, and the module's limit is as before; one bad byte costs one row; names are unique."""
    before = csv.field_size_limit()
    rows, findings = read(tmp_path, "a.csv", b"text\n" + b"x" * 200_000 + b"\n")
    assert (len(rows[0][1]["text"]), findings, csv.field_size_limit()) == (200_000, [], before)
    rows, findings = read(tmp_path, "b.csv", b"text,label\n\xe9,1\ntwo,2\n")
    assert rows == [(3, {"text": "two", "label": "2"})]
    assert codes(findings) == [("data.encoding", "b.csv:2")]
    assert codes(read(tmp_path, "c.csv", b"text,text\na,b\n")[1]) == [("data.header", "c.csv:1")]


def test_gzip_cut_short_keeps_what_came_before(tmp_path: Path) -> None:
    """Random-looking rows, so that half of the bytes hold about half of the rows."""
    lines = [json.dumps({"text": sha256(bytes([n % 256, n // 256])).hexdigest()}).encode() + b"\n" for n in range(2000)]
    whole = gzip.compress(b"".join(lines))
    rows, findings = read(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2])
    assert 200 < len(rows) < 1800
    assert codes(findings) == [("data.malformed", f"a.jsonl.gz:{len(rows) + 1}")]
    assert codes(read(tmp_path, "b.jsonl.gz", b'{"a": 1}\n')[1]) == [("data.malformed", "b.jsonl.gz:1")]


def test_lfs_pointer(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for name in ("a.jsonl", "a.parquet", "a.jsonl.gz"):
        _, findings = read(tmp_path, name, pointer)
        assert codes(findings) == [("data.lfs-pointer", name)]
        assert "git lfs pull" in findings[0].mend


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    _, findings = read(tmp_path, "Trian.jsonl")
    assert codes(findings) == [("data.missing", "Trian.jsonl")]
    assert "train.jsonl" in findings[0].mend
    assert "folder" in read(tmp_path, "nowhere/a.jsonl")[1][0].what
    assert codes(read(tmp_path, "a.xlsx", b"PK")[1]) == [("data.unknown-file", "a.xlsx")]


def test_folder_reads_its_data_files_by_name(tmp_path: Path) -> None:
    """b before c; the README is no data although it ends in .txt; files named like two splits get a warning."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "c_train.jsonl").write_text('{"a": 3}\nbroken\n')
    (folder / "b_test.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "README.txt").write_text("about")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden").write_text("x")
    rows, findings = read_rows("d", base=tmp_path)
    assert [(str(source), row["a"]) for source, row in rows] == [
        ("d/b_test.jsonl:1", 1),
        ("d/b_test.jsonl:2", 2),
        ("d/c_train.jsonl:1", 3),
    ]
    assert [(finding.code, finding.severity) for finding in findings] == [
        ("data.unknown-file", "warning"),
        ("data.folder-splits", "warning"),
        ("data.malformed", "error"),
    ]
    assert "README.txt, picture.png" in findings[0].what
    (tmp_path / "none").mkdir()
    assert codes(read_rows("none", base=tmp_path)[1]) == [("data.empty", "none")]


class ClassLabel(SimpleNamespace):
    """A stand-in for datasets.ClassLabel: ids 0, 1 are neg, pos."""

    def int2str(self, index: int) -> str:
        return ["neg", "pos"][index]


class Table(list[dict[str, Any]]):
    features = {"text": object(), "label": ClassLabel()}


def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A stand-in for the datasets library that knows one data set; what it was asked for."""
    asked: list[tuple[str, str]] = []

    def load_dataset(repo: str, split: str) -> Table:
        asked.append((repo, split))
        if repo != "owner/reviews":
            raise ConnectionError("the hub cannot be reached")
        return Table([{"text": "fine", "label": 1}, {"text": "hidden", "label": -1}])

    module = ModuleType("datasets")
    module.load_dataset, module.ClassLabel = load_dataset, ClassLabel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


@pytest.mark.parametrize("path", ["owner/reviews:test", "hub:owner/reviews:test"])
def test_hub_rows_have_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    asked = hub(monkeypatch)
    rows, findings = read_rows(path, base=tmp_path)
    assert asked == [("owner/reviews", "test")]
    assert [(str(source), row) for source, row in rows] == [
        ("hub:owner/reviews:test:1", {"text": "fine", "label": "pos"}),
        ("hub:owner/reviews:test:2", {"text": "hidden", "label": None}),
    ]
    assert findings == []


def test_hub_out_of_reach_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch)
    _, findings = read_rows("reviews", base=tmp_path)
    assert codes(findings) == [("data.missing", "reviews")]
    assert str(tmp_path / "reviews") in findings[0].what
    assert "cannot be reached" in findings[0].what
    assert asked == [("reviews", "train")]


def test_a_slip_in_a_path_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named like a data file, in a folder that exists, or there in the working folder alone."""
    asked = hub(monkeypatch)
    base, elsewhere = tmp_path / "base", tmp_path / "elsewhere"
    (base / "data").mkdir(parents=True)
    (base / "data" / "train.jsonl").write_text("{}")
    (elsewhere / "chats").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for path in ("train.jsonl", "data/train.jsnl", "chats"):
        assert codes(read_rows(path, base=base)[1]) == [("data.missing", path)]
    assert asked == []


def test_hub_without_the_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path, code in (("hub:owner/reviews", "data.needs-extra"), ("owner/reviews", "data.missing")):
        _, findings = read_rows(path, base=tmp_path)
        assert [finding.code for finding in findings] == [code]
        assert 'pip install "luthier[data]"' in findings[0].mend
