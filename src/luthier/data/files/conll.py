"""Column files of tagged words: a word a line with its columns, a blank line between sentences.

    -DOCSTART- -X- -X- O            Universal Dependencies' CoNLL-U names its columns: the second is the word, the
                                    fourth its part of speech, and lines with # are comments.
    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

A sentence is a row, ``{"tokens": [...], "tags": [...]}``, whose line is that of its first word; the tag is the last
column. The formats are those of the shared tasks (Tjong Kim Sang and De Meulder 2003; Nivre et al. 2020).
"""

from __future__ import annotations

from typing import IO, Any

from luthier.data.files.parse import lines, read_text
from luthier.data.files.reading import Reading, excerpt
from luthier.data.files.token_files import TOKEN, read_token

DOCUMENT = "-DOCSTART-"


def read_conll(stream: IO[bytes], reading: Reading) -> None:
    """Sentences; a line that has other columns than the first makes its sentence a bad row."""
    _read(stream, reading, word=0, tag=-1, named=False)


def read_conllu(stream: IO[bytes], reading: Reading) -> None:
    """Sentences of CoNLL-U: words with their universal parts of speech."""
    _read(stream, reading, word=1, tag=3, named=True)


def read_txt(stream: IO[bytes], reading: Reading) -> None:
    """Sentences where the file begins as those of CoNLL-2003 do, captions where as those of Flickr8k; else the whole
    file is one row."""
    begins = stream.readline()
    stream.seek(0)
    kind = read_conll if begins.startswith(DOCUMENT.encode()) else read_token if TOKEN.match(begins) else read_text
    kind(stream, reading)


def _read(stream: IO[bytes], reading: Reading, *, word: int, tag: int, named: bool) -> None:
    words: list[list[str]] = []
    began, columns, bad = 0, 0, False
    for line, text, problem in lines(stream, reading):
        if problem:
            if not bad:  # a bad sentence is one bad row
                reading.bad(line, *problem, "data.encoding")
            bad = True
            continue
        fields = text.rstrip("\r\n").split("\t" if named else None)
        if not text.strip() or fields[0] == DOCUMENT:
            _close(reading, began, words, word, tag, bad)
            words, bad = [], False
        elif named and (text.startswith("#") or not fields[0].isdigit()):
            continue  # a comment, a contraction (1-2) or an empty node (1.1)
        else:
            began = began if words or bad else line
            columns = columns or (10 if named else len(fields))
            if bad:
                continue
            if len(fields) != columns or len(fields) < 2:
                what = f"{len(fields)} columns, where {max(columns, 2)} are expected: {excerpt(text.strip())}"
                reading.bad(line, what, "a line is a word, white space, and its tag last")
                bad = True
            words.append(fields)
    _close(reading, began, words, word, tag, bad)


def _close(reading: Reading, line: int, words: list[list[str]], word: int, tag: int, bad: bool) -> None:
    if words and not bad:
        row: dict[str, Any] = {"tokens": [fields[word] for fields in words], "tags": [fields[tag] for fields in words]}
        reading.add(line, row)
