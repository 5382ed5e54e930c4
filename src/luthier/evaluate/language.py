"""Metrics of language models on supervised tokens: loss (nats per token), perplexity, share of tokens predicted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from luthier.evaluate.intervals import Metrics, interval

# The metrics, and whether higher is better.
METRICS = {"loss": False, "perplexity": False, "token_accuracy": True}


def plain(outputs: list[dict[str, Any]]) -> dict[str, float]:
    """From per-row {nll, tokens, right}: sums over rows, divided once."""
    tokens = max(1, sum(row["tokens"] for row in outputs))
    loss = sum(row["nll"] for row in outputs) / tokens
    accuracy = sum(row["right"] for row in outputs) / tokens
    return {"loss": loss, "perplexity": math.exp(min(loss, 80)), "token_accuracy": accuracy}


def with_intervals(outputs: list[dict[str, Any]]) -> Metrics:
    nll, tokens, right = (np.array([row[key] for row in outputs], dtype=float) for key in ("nll", "tokens", "right"))
    loss = interval(lambda i: nll[i].sum() / max(tokens[i].sum(), 1), len(outputs))
    accuracy = interval(lambda i: right[i].sum() / max(tokens[i].sum(), 1), len(outputs))
    perplexity = {key: value if key == "n" else math.exp(min(value, 80)) for key, value in loss.items()}
    return {"loss": loss, "perplexity": perplexity, "token_accuracy": accuracy}
