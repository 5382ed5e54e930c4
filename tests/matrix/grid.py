"""docs/grid.md, from the table that the tests run: `python tests/matrix/grid.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
GRID = HERE.parents[1] / "docs" / "grid.md"
if str(HERE.parent) not in sys.path:  # as pytest has it
    sys.path.insert(0, str(HERE.parent))

import modalities  # noqa: E402
import towers  # noqa: E402
from table import CELLS, DECODERS, ENCODER_DECODERS, ENCODERS, METHODS, REASONS, SHOWN, TASKS  # noqa: E402

TITLES = {
    "single": "classify: one label a row", "multi": "classify: several labels", "regression": "classify: a number",
    "tag": "tag", "chat": "chat", "complete": "complete", "summarize": "summarize", "retrieve": "retrieve",
}  # fmt: skip
OPENING = """# What works with what

Written from the table that the tests in `tests/matrix` run, by `python tests/matrix/grid.py`; a test fails when this
page and that table differ.

Each ✓ is a test on a small random model of the family: it learns a toy set, only what was chosen moves, the saved
model opens again with the same outputs, and transformers and PEFT alone give the same logits. `make test` runs a
selection in which every model meets every task and every family of methods, and every task every method;
`make test-slow` runs all. A number is a combination that is refused before the first step, with a reason and a mend:

"""


BY_ROLE = """
## Methods by role

Of a picture's tower and a text's, then of what joins them; `projection`, `concatenation` and `cross_attention` compose
a ViT and BERT; of T5 the encoder and the decoder. Here a code stands for what is refused.
"""

MODALITIES = """
## Pictures, sounds and actions

Each ✓ is a test on small random models: it runs, learns a toy set, and the saved model opens again with the same
metrics, in a fresh process (a few of the quick selection in the same one). What is learned is told by the picture or
the sound alone, and a model that does not heed it is refused. A letter is a combination that is refused:

"""
LETTERS = dict(zip(modalities.REASONS, "abcdefgh", strict=False))


def grid() -> str:
    """The page."""
    number = {reason: str(at) for at, reason in enumerate(REASONS, 1)}
    found = {(cell.model, cell.task, cell.method): cell.refusal for cell in CELLS}
    parts = [OPENING + "".join(f"{number[reason]}. {text}\n" for reason, text in REASONS.items())]
    for task in TASKS:
        parts.append(f"\n## {TITLES[task]}\n")
        families = {"Encoders": ENCODERS, "Decoders": DECODERS, "Encoder-decoders": ENCODER_DECODERS}
        for family, models in families.items():
            rows = {m: [_sign(found[model, task, m], number) for model in models] for m in METHODS}
            parts.append(_table(family, [SHOWN[model] for model in models], rows))
    return "".join([*parts, BY_ROLE, _by_role(), _modalities(), *map(_of_modality, modalities.TABLES)])


def _modalities() -> str:
    told = "".join(f"- {LETTERS[code]} (`{code}`): {text}\n" for code, text in modalities.REASONS.items())
    return MODALITIES + told


def _of_modality(told: modalities.Table) -> str:
    """Methods down; models, or ways to join them, across."""
    rows = {m: [_sign(told.refusal(column, m), LETTERS) for column in told.columns] for m in told.methods}
    return f"\n### {told.title}\n" + _table("", [*told.columns.values()], rows)


def _by_role() -> str:
    """What each tower is given, down; towers composed in each way and others, across."""
    signs = {cell: _sign(towers.refusal(*cell), {}) for cell in towers.CELLS}
    rows = {name: [signs[model, name] for model in towers.MODELS] for name in towers.TOWERS}
    return _table("First tower, second", [towers.SHOWN.get(model, model) for model in towers.MODELS], rows)


def _sign(refusal: str | None, number: dict[str, str]) -> str:
    return "✓" if refusal is None else number.get(refusal, f"`{refusal}`")


def _table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    lines = [[corner, *columns], ["---", *(":-:" for _ in columns)], *([name, *signs] for name, signs in rows.items())]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    GRID.write_text(grid(), encoding="utf-8")
    print(f"wrote {GRID}")
