"""Sampling with LoRA merged into the weights beside sampling with it apart, a few tokens each in turn.

    python benchmarks/merged_sampling.py            # every cell; about three minutes on one thread
    python benchmarks/merged_sampling.py small --rounds 5

Llamas of random weights, LoRA of rank 8 on every linear layer, as rollouts draw their answers. Told are milliseconds of
processor time for a token on either side, and for merging and putting back, once a rollout; ratios are of neighbouring
rounds. Results: ``results/merged_sampling.json`` and, as a table, ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
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
    "tiny": {"layers": 5, "width": 64, "rows": 64, "new": 32},
    "small": {"layers": 4, "width": 256, "rows": 64, "new": 12},
    "middle": {"layers": 8, "width": 512, "rows": 64, "new": 8},
    "few": {"layers": 8, "width": 512, "rows": 8, "new": 24},
    "large": {"layers": 12, "width": 1024, "rows": 8, "new": 8},
    "dora": {"layers": 4, "width": 256, "rows": 64, "new": 12, "variant": "dora"},
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


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    cell, backbone = CELLS[name], backbone_of(CELLS[name])
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(10, 16000, (cell["rows"], PROMPT), generator=draw).tolist()
    runs: dict[str, list[float]] = {"apart": [], "merged": [], "merging": []}

    def draw_answers(side: str, new: int, seed: int) -> None:
        began = time.process_time()
        made = generate(backbone, prompts, max_new_tokens=new, temperature=1.0, seed=seed, batch_size=64, whole=True)
        runs[side].append(1000 * (time.process_time() - began) / sum(map(len, made)))

    draw_answers("apart", 2, 0)  # warms up
    runs["apart"].clear()
    for at in range(rounds):
        draw_answers("apart", cell["new"], at)
        began = time.process_time()
        with merged(backbone.model):
            into = time.process_time() - began
            draw_answers("merged", cell["new"], at)
            began = time.process_time()
        runs["merging"].append(1000 * (into + time.process_time() - began))
    load, versions = os.getloadavg()[0], {"torch": torch.__version__}
    return {"cell": name, "threads": threads, "load_at_end": load, "versions": versions, "runs": runs}


def line(found: dict[str, Any]) -> str:
    cell, runs = CELLS[found["cell"]], found["runs"]
    about = f"{cell['layers']} × {cell['width']}, {cell['rows']} answers"
    times = [f"{statistics.median(runs[side]):.3f} ms" for side in ("apart", "merged")]
    ratios = [one / other for one, other in zip(runs["apart"], runs["merged"], strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    once = f"{statistics.median(runs['merging']):.0f} ms"
    return "| " + " | ".join([found["cell"], about, *times, ratio, once, str(len(ratios))]) + " |"


def table(cells: list[dict[str, Any]]) -> str:
    head = ["cell", "layers × width", "a token apart", "merged", "merged is faster by", "merging, once", "rounds"]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *map(line, cells)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=7)
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
