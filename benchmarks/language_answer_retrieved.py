"""Answers from passages that a search found, beside those from the right one: XQuAD's English questions.

    python benchmarks/language_answer.py               # makes the readers, one a seed
    python benchmarks/language_answer_retrieved.py     # or, for some of the seeds: 0 2

The readers of `language_answer.py`, which were taught with the right paragraph, are asked the same 190 questions with
the passage that is right, and with the 1 or 3 nearest of an index of the test articles' paragraphs (`data.index`). The
index is made by the starter encoder as it came (frozen) or by a run of `retrieve` on the training articles' questions
and paragraphs (tuned; `full`, one epoch, one seed). A reader that is taught with what was found (`data.index` in its
recipe, `answer.absent: unanswerable`) needs passages of the training articles too: it and its counterpart are asked
over an index of all paragraphs, one seed. In training the tuned encoder finds what it was tuned on, so that it misses
less there than in use.

`recall` is the share of questions for which a passage lies in the right paragraph, `holds` that for which the passages
hold the answer's words; a paragraph is one passage, but for long ones, of more than 250 tokens. `steps` are the
reader's; processor time is that of asking (and, where it is taught here, of teaching), the search among it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from language_answer import KEPT, LONGEST, STEPS, STRIDE, Rows, data, reader, scored, tuned, write
from side_by_side import HERE, Cell, made

OUT = HERE / "results" / "language_answer_retrieved.json"
TOKENS = 250
PAIRS: dict[str, Any] = {"batch_size": 32, "epochs": 1, "learning_rate": 5e-5, "max_length": 256}
ABOUT: Cell = {"task": "answer", "model": "starter:minilm", "method": "full", "rate": 2e-4}


def paragraphs(corpus: str) -> list[str]:
    """Of the test articles (``test``), or of all of them."""
    train, test = data()
    return list(dict.fromkeys(row["context"] for row in (test if corpus == "test" else [*train, *test])))


def encoder(kind: str) -> str:
    """The starter encoder, or a run that tuned it; tuned where it is not there yet."""
    import luthier

    if kind == "frozen":
        return "starter:minilm"
    pairs = [{"query": row["question"], "positive": row["context"]} for row in data()[0]]
    run = luthier.tune(
        task="retrieve", model="starter:minilm", method="full", out=str(KEPT), name="encoder", precision="fp32",
        data={"train": write(KEPT / "pairs.jsonl", pairs), "eval": 0}, final="last", **PAIRS,
    )  # fmt: skip
    return str(run.folder)


def index_of(kind: str, corpus: str) -> Path:
    """An index of paragraphs, brought up to date."""
    from luthier.runs.finding.search import index

    folder = KEPT / f"index-{kind}-{corpus}"
    texts = write(KEPT / f"{corpus}.jsonl", [{"text": text} for text in paragraphs(corpus)])
    index(encoder(kind), texts, str(folder), tokens=TOKENS, overlap=0)
    return folder


def asked(cell: Cell, folder: Path | None) -> dict[str, float]:
    """The score of a reader that is asked with what the cell tells."""
    from luthier.runs.finding.passages import Passages

    train, test = data()
    if cell["taught"] == "found":
        given: dict[str, Any] = {"index": str(folder), "passages": cell["passages"]}
        settings = {"stride": STRIDE, "max_tokens": LONGEST, "absent": "unanswerable"}
        with tempfile.TemporaryDirectory() as out:
            predictor = tuned(cell, train, Path(out), data=given, answer=settings).predictor
    else:
        names = {"question": "question", "context": "context"}
        passages = Passages(folder, cell["passages"], names) if folder else None
        predictor = replace(reader(cell).predictor, passages=passages)
    answers = predictor.answers([{key: row[key] for key in ("question", "context")} for row in test])
    return (_found(answers, test) if folder else {}) | scored([answer["answer"] for answer in answers], test)


def _found(answers: list[dict[str, Any]], test: Rows) -> dict[str, float]:
    pairs = [([p["text"].strip() for p in one["passages"]], row) for one, row in zip(answers, test, strict=True)]
    right = sum(any(text in row["context"] for text in texts) for texts, row in pairs)
    holds = sum(any(row["answers"]["text"][0] in text for text in texts) for texts, row in pairs)
    return {"recall": round(right / len(test), 4), "holds": round(holds / len(test), 4)}


def cells(seeds: list[int]) -> list[Cell]:
    ways = [("right", "", "test", 1)]
    ways += [("right", kind, "test", k) for kind in ("frozen", "tuned") for k in (1, 3)]
    every = [(seed, *way) for seed in seeds for way in ways]
    every += [(seeds[0], taught, "tuned", "all", 1) for taught in ("right", "found")]
    found = []
    for seed, taught, kind, corpus, k in every:
        side = f"{kind}, {k} passage{'s' * (k > 1)}" if kind else "the right passage"
        side += ", taught with them" if taught == "found" else ""
        told = {"data": f"xquad_en, {len(paragraphs(corpus))} paragraphs", "side": side, "seed": seed}
        found.append({**ABOUT, **told, "taught": taught, "encoder": kind, "corpus": corpus, "passages": k})
    return found


def main() -> None:
    train, test = data()
    rows = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.is_file() else []
    for cell in cells([int(seed) for seed in sys.argv[1:]] or [0, 1, 2]):
        if any(all(row[key] == value for key, value in cell.items()) for row in rows):
            continue
        folder = index_of(cell["encoder"], cell["corpus"]) if cell["encoder"] else None
        before = os.times()
        score, after = asked(cell, folder), os.times()
        used = round(after.user + after.system - before.user - before.system, 1)
        sizes = {"train_rows": len(train), "test_rows": len(test), "steps": STEPS}
        rows.append({**cell, **sizes, "score": score, "cpu_seconds": used})
        OUT.write_text(json.dumps({"made": made(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
