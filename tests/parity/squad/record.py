"""Make scores.json with torchmetrics: exact match and F1 of SQuAD for random pairs of phrases.

pip install torchmetrics
python tests/parity/squad/record.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from torchmetrics.functional.text.squad import _compute_exact_match_score, _compute_f1_score

PARTS = ["the", "a", "An", "cat", "Cat,", "U.S.", "red-house", "it's", "42", "—", "naïve", "", "of  ", "house", "red"]


def main() -> None:
    draw, rows = random.Random(0), []
    for _ in range(400):
        given, right = (" ".join(draw.choices(PARTS, k=draw.randint(0, 5))) for _ in range(2))
        exact, f1 = float(_compute_exact_match_score(given, right)), float(_compute_f1_score(given, right))
        rows.append([given, right, exact, f1])
    Path(__file__).with_name("scores.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
