"""A group's prompt read once, while its answers are written and learned from, beside each answer by itself.

    python benchmarks/speed_groups.py [--rounds 5]      # writes results/speed_groups.json and .md

The Llama of `speed_preferences.py` (4 layers, width 256, vocabulary 16,000), GRPO without a reference: 2 prompts, 8
answers of 32 tokens to each, fp32, one thread. Writing is the sampling of the 16 answers; learning is loss and
gradient. Both ways take turns in one process; the ratio is the median of the rounds' own, with the least and the
largest. Tokens written are the same both ways, and gradients are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from luthier.engine.accumulate import loss_of
from luthier.evaluate import generate as writing
from luthier.models.attention import register
from luthier.models.backbone import Backbone
from luthier.objectives import grpo
from luthier.objectives.online import ADVANTAGE
from speed_preferences import HERE, VOCABULARY, model_of

PROMPTS, GROUP, NEW = 2, 8, 32
LENGTHS = (50, 200)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def measure(length: int, rounds: int) -> dict[str, Any]:
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=None)
    together = Backbone(model_of("grpo"), tokenizer, "model", "model", "token_logits")  # type: ignore[arg-type]
    together.choose_layout("on")
    apart = replace(together, unshared_because="each answer by itself")
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, VOCABULARY, (PROMPTS, length), generator=draw).tolist()
    asked = [one for one in prompts for _ in range(GROUP)]
    options = grpo.Options(group_size=GROUP, max_new_tokens=NEW, beta=0.0)
    found: dict[str, list[float]] = {name: [] for name in ("write", "write apart", "learn", "learn apart")}
    gradients, texts = {}, {}
    for at in range(rounds + 1):
        for name, backbone in (("", together), (" apart", apart)):
            objective = grpo.Objective(options, backbone, None)
            kept = patch.object(writing, "prefilled", lambda backbone, rows, inputs, pad: inputs)
            with kept if name else nullcontext():
                spent, told = timed(lambda: objective.write(backbone, asked, 1.0, 0))  # noqa: B023
            texts[name] = [one["ids"] for one in told]
            rows = [
                {
                    "row": place // GROUP, "weight": 1.0, "prompt": length, "lengths": [length + NEW],
                    "input_ids": asked[place] + one["ids"], "supervised": [False] * length + [True] * NEW,
                    ADVANTAGE: 1.0 - place % 3, "begins": length,
                }
                for place, one in enumerate(told)
            ]  # fmt: skip
            backbone.model.zero_grad()

            def learn() -> None:
                loss_of(backbone, objective, rows, "fp32")[0].total.backward()  # noqa: B023

            learned, _ = timed(learn)
            gradients[name] = torch.cat([p.grad.flatten() for p in backbone.model.parameters() if p.grad is not None])
            if at:  # the first round warms up
                found[f"write{name}"].append(spent)
                found[f"learn{name}"].append(learned)
    difference = (gradients[""] - gradients[" apart"]).abs().max() / gradients[" apart"].abs().max()
    return {
        "length": length,
        "seconds": found,
        "gradients_apart": float(difference),
        "same_tokens": texts[""] == texts[" apart"],
    }


def line(one: dict[str, Any]) -> str:
    seconds = one["seconds"]
    cells = [str(one["length"])]
    for what in ("write", "learn"):
        ratios = [b / a for a, b in zip(seconds[what], seconds[f"{what} apart"], strict=True)]
        cells += [f"{1000 * statistics.median(seconds[name]):.0f} ms" for name in (what, f"{what} apart")]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return f"| {' | '.join(cells)} | {one['same_tokens']} | {one['gradients_apart']:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    register()
    measured = [measure(length, given.rounds) for length in LENGTHS]
    path = HERE / "results/speed_groups.json"
    path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    lines = ["# A group's prompt, read once", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += [
        "| prompt | writing | apart | faster by | learning | apart | faster by | same tokens | gradients apart |",
        "|---|---|---|---|---|---|---|---|---|", *map(line, measured), "", "Times are of the processor.",
    ]  # fmt: skip
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
