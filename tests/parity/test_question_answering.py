"""Questions: the loss is transformers' own, windows change nothing that they hold whole, scores are SQuAD's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny
from luthier.evaluate.answers import exact, f1
from luthier.models.load import load
from luthier.objectives.span import Objective, Options
from luthier.tasks.answer import Options as TaskOptions
from luthier.tasks.answer import Task
from luthier.types import Example, Source

TEXT = "the small old house and the new tree and the red cat"


def examples() -> list[Example]:
    made = []
    for at, answer in enumerate(("old house", "red cat", "new")):
        start = TEXT.index(answer)
        span = (start, start + len(answer), answer)
        made.append(Example(Source("x", at), text=TEXT, question="green bird", targets=[answer], spans=[span]))
    return made


@pytest.mark.parametrize("model", ["bert", "roberta", "distilbert", "modernbert", "deberta-v2", "qwen3"])
def test_the_loss_is_transformers_own(model: str, tiny_folder: Callable[..., str]) -> None:
    path = tiny_folder(model)
    backbone = load(model, path, "span_logits")
    backbone.model.eval()
    objective = Objective(Options(), backbone, Task(TaskOptions()).encoder(backbone, 128, "truncate"))
    rows = [row | {"row": at} for at, example in enumerate(examples()) for row in objective.encode(example)]
    batch = objective.collate(rows)
    with torch.no_grad():
        terms = objective.loss(backbone, batch)
        losses = []
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            start, end = (torch.tensor([place]) for place in row["target"])
            theirs = backbone.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), start_positions=start, end_positions=end
            )
            losses.append(float(theirs.loss))
    assert float(terms.total) == pytest.approx(sum(losses), rel=1e-5)
    assert [output["nll"] for output in objective.outputs(backbone, batch)] == pytest.approx(losses, rel=1e-4)


def test_windows_hold_the_answer_at_the_same_characters(tiny_folder: Callable[..., str]) -> None:
    """A context of several windows: where one holds the answer whole, its tokens are the answer's characters."""
    backbone = load("bert", tiny_folder("bert"), "span_logits")
    words = [random.Random(7).choice(tiny.WORDS) for _ in range(120)]
    text = " ".join(words)
    start = len(" ".join(words[:70])) + 1
    answer = " ".join(words[70:72])
    example = Example(
        Source("x", 1), text=text, question="green bird", targets=[answer], spans=[(start, start + len(answer), answer)]
    )
    rows = Task(TaskOptions()).encoder(backbone, 40, "truncate")(example)
    assert len(rows) > 3
    assert all(len(row["input_ids"]) <= 40 for row in rows)
    held = [row for row in rows if row["target"] != (0, 0)]
    assert held
    for row in held:
        first, last = (row["offsets"][at] for at in row["target"])
        assert text[first[0] : last[1]].strip() == answer
    covered = {place for row in rows for place in row["offsets"] if place}
    assert {at for place in covered for at in range(*place)} >= {at for at, sign in enumerate(text) if sign != " "}


def test_scores_are_those_of_torchmetrics() -> None:
    """Recorded (squad/record.py): 400 pairs of phrases with articles, punctuation and repeated words."""
    rows = json.loads((Path(__file__).parent / "squad" / "scores.json").read_text(encoding="utf-8"))
    assert len(rows) == 400
    for given, right, exactly, overlap in rows:
        assert exact(given, right) == exactly, (given, right)
        assert f1(given, right) == pytest.approx(overlap), (given, right)
