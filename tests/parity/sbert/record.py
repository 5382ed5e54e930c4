"""Losses and gradients of sentence-transformers on given vectors, for `test_sentence_transformers.py`.

    PYTHON tests/parity/sbert/record.py     # PYTHON: an environment with sentence-transformers 6.2.0

Its losses are given an encoder that gives vectors back: a text's features are its vector. Writes fixtures.json: the
vectors, each loss with the gradient of the first query, and what the starter encoder makes of three texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import losses

from luthier.models.locate import locate

ROWS, WIDTH = 6, 16
TEXTS = ["The soup was cold.", "A quiet, generous film about two sisters who keep bees.", "Warum?"]


class Given(torch.nn.Module):
    """An encoder whose features are the vectors themselves."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self) -> int:
        return WIDTH


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    columns = [
        (torch.randn(ROWS, WIDTH, generator=draw) * 100).round() / 100 for _ in ("query", "positive", "negative")
    ]
    scores = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.0, 1.0])
    model = Given()
    ranking = losses.MultipleNegativesRankingLoss(model)
    cases = {
        "pairs": (ranking, columns[:2], None),
        "triplets": (ranking, columns, None),
        "pairs, scale 7": (losses.MultipleNegativesRankingLoss(model, scale=7.0), columns[:2], None),
        "symmetric": (losses.MultipleNegativesSymmetricRankingLoss(model), columns[:2], None),
        "matryoshka": (losses.MatryoshkaLoss(model, ranking, [16, 8, 4]), columns, None),
        "cosent": (losses.CoSENTLoss(model), columns[:2], scores),
        "cosine mse": (losses.CosineSimilarityLoss(model), columns[:2], scores),
    }
    told: dict[str, Any] = {"made_with": f"sentence-transformers {sentence_transformers.__version__}"}
    told |= {"columns": [c.tolist() for c in columns], "scores": scores.tolist(), "cases": {}}
    for name, (loss, given, labels) in cases.items():
        leaves = [column.clone().requires_grad_() for column in given]
        value = loss([{"vectors": leaf} for leaf in leaves], labels)
        value.backward()
        told["cases"][name] = {"loss": float(value.detach()), "gradient": leaves[0].grad[0].tolist()}
    encoder = sentence_transformers.SentenceTransformer(locate("starter:minilm", Path())[0], device="cpu")
    told["texts"] = TEXTS
    told["vectors"] = [[round(float(x), 8) for x in vector] for vector in encoder.encode(TEXTS)]
    path = Path(__file__).parent / "fixtures.json"
    path.write_text(json.dumps(told) + "\n", encoding="utf-8")
    print({name: case["loss"] for name, case in told["cases"].items()})


if __name__ == "__main__":
    main()
