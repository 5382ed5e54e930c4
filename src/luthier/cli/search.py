"""``luthier index`` and ``luthier search``: what they call, and how the answer is printed."""

from __future__ import annotations

import argparse
from pathlib import Path

from luthier.cli.say import say


def index(given: argparse.Namespace) -> int:
    from luthier.runs.finding.search import index

    told = index(given.run, given.documents, given.to, tokens=given.tokens, overlap=given.overlap, size=given.size)
    if given.json:
        say(told)
        return 0
    kinds = (
        f"{told['pictures']} pictures, {told['texts']} texts" if "pictures" in told else f"{told['entries']} passages"
    )
    print(f"{kinds}, {told['width']} numbers each, in {told['folder']}")
    print(f"{len(told['embedded'])} file(s) embedded, {len(told['kept'])} unchanged, {len(told['gone'])} gone")
    for name in told["empty"]:
        print(f"no text: {name}")
    for name in told["not_read"]:
        print(f"not read: {name}")
    return 0


def search(given: argparse.Namespace) -> int:
    from luthier.reports.gallery import write_gallery
    from luthier.runs.finding.search import search

    found = search(given.run, given.query, given.k, folder=given.index, backend=given.backend, find=given.find or "")
    if given.page:
        write_gallery(given.query, found, Path(given.page))
    if given.json:
        say(found)
        return 0
    for passage in found:
        if shown := passage.get("image", passage.get("audio")):
            print(f"{passage['score']:.4f}  {shown}")
            continue
        also = f" (and {', '.join(passage['also'])})" if "also" in passage else ""
        print(f"{passage['score']:.4f}  {passage['file']}:{passage['line']}{also}")
        for line in passage["text"].splitlines():
            print(f"        {line}")
    if given.page:
        print(f"page: {given.page}")
    return 0
