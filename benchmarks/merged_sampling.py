"""Sampling with LoRA merged into the weights beside sampling with it apart, the same answers in turn.

    python benchmarks/merged_sampling.py            # every cell; about eight minutes on one thread
    python benchmarks/merged_sampling.py small --rounds 3

Llamas of random weights, LoRA of rank 8 on every linear layer, as rollouts draw their answers. A merged round counts
the merging and the putting back. Results: ``results/merged_sampling.json`` and, as a table, ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.evaluate.generate import generate
from luthier.methods import METHODS
from luthier.methods.injected import merged
from luthier.models.attention import register
from luthier.models.backbone import Backbone

PROMPT = 32
CELLS: dict[str, dict[str, Any]] = {
    "tiny": {"layers": 5, "width": 64, "rows": 64, "new": 128},
    "small": {"layers": 4, "width": 256, "rows": 64, "new": 64},
    "middle": {"layers": 8, "width": 512, "rows": 64, "new": 32},
    "large": {"layers": 12, "width": 1024, "rows": 8, "new": 32},
    "few": {"layers": 8, "width": 512, "rows": 8, "new": 128},
    "dora": {"layers": 4, "width": 256, "rows": 64, "new": 64, "variant": "dora"},
}


def backbone_of(cell: dict[str, Any]) -> Backbone:
    torch.manual_seed(0)
    width = cell["width"]
    config = LlamaConfig(
        vocab_size=16000, hidden_size=width, intermediate_size=width * 8 // 3 // 64 * 64 or 128,
        num_hidden_layers=cell["layers"], num_attention_heads=max(2, width // 64), max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    backbone = Backbone(
        LlamaForCausalLM(config).eval(), SimpleNamespace(pad_token_id=0, eos_token_id=1), "m", "m", "token_logits"
    )
    method = METHODS.load("lora")
    adaptation = method.adapt(backbone, method.Options(variant=cell.get("variant", "lora")))
    with torch.no_grad():
        for name, parameter in adaptation.parameters.items():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return backbone


@contextmanager
def apart(model: Any) -> Iterator[None]:
    yield


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    cell, backbone = CELLS[name], backbone_of(CELLS[name])
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 16000, (cell["rows"], PROMPT), generator=draw).tolist()
    runs: dict[str, list[tuple[float, float]]] = {"apart": [], "merged": []}
    for at in range(rounds + 1):
        for side, way in (("apart", apart), ("merged", merged)):
            wall, cpu = time.perf_counter(), time.process_time()
            with way(backbone.model):
                made = generate(
                    backbone, prompts, max_new_tokens=cell["new"], temperature=1.0, seed=at, batch_size=64, whole=True
                )
            took = time.perf_counter() - wall, time.process_time() - cpu
            tokens = sum(map(len, made))
            if at:  # the first round warms up
                runs[side].append((1000 * took[0] / tokens, 1000 * took[1] / tokens))
    return {
        "cell": name,
        "threads": threads,
        "load_at_end": os.getloadavg()[0],
        "torch": torch.__version__,
        "runs": runs,
    }


def line(found: dict[str, Any]) -> str:
    cell, runs = CELLS[found["cell"]], found["runs"]
    parameters = f"{cell['layers']} × {cell['width']}, {cell['rows']} answers"
    times = [f"{statistics.median(one[1] for one in runs[side]):.3f} ms" for side in ("apart", "merged")]
    ratios = [[a[at] / b[at] for a, b in zip(runs["apart"], runs["merged"], strict=True)] for at in (0, 1)]
    told = [f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})" for one in ratios]
    return "| " + " | ".join([found["cell"], parameters, *times, *told, str(len(runs["merged"]))]) + " |"


def table(cells: list[dict[str, Any]]) -> str:
    head = [
        "cell", "layers × width", "a token apart (processor time)", "merged", "merged is faster by",
        "in processor time", "rounds",
    ]  # fmt: skip
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(line, cells)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    register()
    path = Path(__file__).parent / "results" / "merged_sampling.json"
    kept = {one["cell"]: one for one in json.loads(path.read_text())} if path.is_file() else {}
    for name in given.cells or CELLS:
        kept[name] = measure(name, given.rounds, given.threads)
        print(table([kept[name]]), flush=True)
        cells = [kept[cell] for cell in CELLS if cell in kept]
        path.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(table(cells) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
