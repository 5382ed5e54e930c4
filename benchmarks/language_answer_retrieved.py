"""Answers from passages that a search found, beside those from the right one: XQuAD's English questions.

    python benchmarks/language_answer.py               # makes the readers, one a seed
    python benchmarks/language_answer_retrieved.py     # three seeds

The readers of `language_answer.py`, which were taught with the right paragraph, are asked the same 190 questions with
the passage that is right, and with the 1 or 3 nearest of an index of the test articles' paragraphs (`data.index`). The
index is made by the starter encoder as it came (frozen) or by a run of `retrieve` on the training articles' questions
and paragraphs (tuned; `full`, one epoch, one seed). A reader that is taught with what was found (`data.index` in its
recipe, `answer.absent: unanswerable`) needs passages of the training articles too: it and its counterpart are asked
over an index of all paragraphs. In training the tuned encoder finds what it was tuned on, so that it misses less there
than in use.

`recall` is the share of questions for which a passage lies in the right paragraph, `holds` that for which the passages
hold the answer's words; a paragraph is one passage, but for long ones, of more than 250 tokens.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from language_answer import KEPT, LONGEST, STRIDE, Rows, data, reader, scored, tuned, write
from side_by_side import Cell, conduct

TOKENS = 250
PAIRS: dict[str, Any] = {"batch_size": 32, "epochs": 1, "learning_rate": 5e-5, "max_length": 256}


def paragraphs(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["context"] for row in rows))


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
    """An index of the paragraphs of the test articles (``test``) or of all of them."""
    from luthier.runs.search import index

    folder = KEPT / f"index-{kind}-{corpus}"
    train, test = data()
    texts = [{"text": text} for text in paragraphs(test if corpus == "test" else [*train, *test])]
    if not folder.exists():
        index(encoder(kind), write(KEPT / f"{corpus}.jsonl", texts), str(folder), tokens=TOKENS, overlap=0)
    return folder


def asked(cell: Cell, folder: Path) -> dict[str, Any]:
    """The score of a reader that is asked with what the cell tells."""
    from luthier.runs.passages import Passages

    train, test = data()
    rows = [{key: row[key] for key in ("question", "context")} for row in test]
    predictor = reader(cell).predictor
    if cell["encoder"]:
        names = {"question": "question", "context": "context"}
        where = index_of(cell["encoder"], cell["corpus"])
        predictor = replace(predictor, passages=Passages(where, cell["passages"], names))
    if cell["taught"] == "found":
        given: dict[str, Any] = {"index": str(index_of(cell["encoder"], cell["corpus"])), "passages": cell["passages"]}
        settings = {"stride": STRIDE, "max_tokens": LONGEST, "absent": "unanswerable"}
        predictor = tuned(cell, train, folder, data=given, answer=settings).predictor
    answers = predictor.answers(rows)
    score = scored([answer["answer"] for answer in answers], test)
    return {"steps": 0, "score": (_found(answers, test) if cell["encoder"] else {}) | score}


def _found(answers: list[dict[str, Any]], test: Rows) -> dict[str, float]:
    texts = [[passage["text"].strip() for passage in answer["passages"]] for answer in answers]
    right = [any(text in row["context"] for text in of_one) for of_one, row in zip(texts, test, strict=True)]
    holds = [any(row["answers"]["text"][0] in text for text in of_one) for of_one, row in zip(texts, test, strict=True)]
    return {"recall": round(sum(right) / len(test), 4), "holds": round(sum(holds) / len(test), 4)}


def measure(cell: Cell) -> dict[str, Any]:
    train, test = data()
    with tempfile.TemporaryDirectory() as folder:
        return {"train_rows": len(train), "test_rows": len(test), **asked(cell, Path(folder))}


def cells() -> list[Cell]:
    train, test = data()
    about: Cell = {"task": "answer", "model": "starter:minilm", "method": "full", "rate": 2e-4}
    ways = [("right", "", "test", 1)]
    ways += [("right", kind, "test", k) for k in (1, 3) for kind in ("frozen", "tuned")]
    ways += [("right", "tuned", "all", 1), ("found", "tuned", "all", 1)]
    made = []
    for seed in (0, 1, 2):
        for taught, kind, corpus, k in ways:
            count = len(paragraphs(test if corpus == "test" else [*train, *test]))
            side = f"{kind}, {k} passage{'s' * (k > 1)}" if kind else "the right passage"
            side += ", taught with them" if taught == "found" else ""
            told = {"data": f"xquad_en, {count} paragraphs", "side": side, "seed": seed}
            made.append({**about, **told, "taught": taught, "encoder": kind, "corpus": corpus, "passages": k})
    return made


if __name__ == "__main__":
    if not (KEPT / "encoder").exists():  # an index by another encoder would be refused
        for old in KEPT.glob("index-tuned-*"):
            shutil.rmtree(old)
    conduct("language_answer_retrieved", cells(), measure)
