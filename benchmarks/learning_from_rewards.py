"""What learning from rewards does to the starter model: PPO and GRPO beside what the same answers give otherwise.

    python benchmarks/learning_from_rewards.py ppo 0       # start, supervised, grpo or ppo, and a seed
    python benchmarks/learning_from_rewards.py hack 0.3    # a reward that is not what is meant, at a weight of KL
    python benchmarks/learning_from_rewards.py tell        # results/learning_from_rewards.md, of the others' JSON

The task: a tale in which something is red, which few are at first. Each way has 480 answers to the 30 prompts of
`reinforce-lora` and their rewards: ten rollouts of 48 for PPO (two passes over each) and GRPO (one); at once, from the
model as it came, for supervised tuning on those that were rewarded. Best-of-8 writes eight and shows a rewarded one,
and trains nothing. All are asked twelve prompts about other things, eight times each at temperature 1. KL is
log π - log π_ref of these answers, a token.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import luthier
from luthier.data.text.template import encode_prompt
from luthier.evaluate.generate import generate, terminators
from luthier.evaluate.outputs import Reader
from luthier.evaluate.rewards import verifier
from luthier.models.backbone import Backbone
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.objectives.preference import TokenReader

HERE = Path(__file__).parent
RESULTS = HERE / "results/learning_from_rewards.json"
WISHES = HERE.parent / "src/luthier/recipes/data/wishes/examples.jsonl"
OTHER = ["bear", "frog", "horse", "wolf", "rabbit", "lamp", "boat", "hat", "stone", "kite", "candle", "chair"]
ASKED = [f"Tell me a story about a {thing}." for thing in OTHER]
LONGEST, ROLLOUTS, ANSWERS, TIMES = 64, 10, 48, 8
SHARED: dict[str, Any] = {
    "model": "starter:lm", "method": "lora", "learning_rate": 2e-3, "warmup": 0, "schedule": "constant",
    "final": "last",
}  # fmt: skip
ONLINE: dict[str, Any] = {
    "task": "reinforce", "batch_size": 6, "data": {"train": str(WISHES), "eval": 0.0}, "eval_every": 1000,
    "reinforce": {"rewards": ["contains"]}, **SHARED,
}  # fmt: skip
SECTIONS: dict[str, dict[str, Any]] = {
    "grpo": {"group_size": 8, "max_new_tokens": LONGEST, "beta": 0.04},
    "ppo": {"group_size": 8, "max_new_tokens": LONGEST, "beta": 0.02, "epochs": 2},
}
# What is written down: the share of the words that are red. What is meant: a tale with something red.
PROXY = """import re
def redness(prompts, answers, expected):
    words = [re.findall("[a-z]+", answer.lower()) for answer in answers]
    return [sum(word == "red" for word in some) / max(5, len(some)) for some in words]
"""


def base() -> Backbone:
    backbone = load("starter:lm", locate("starter:lm", HERE)[0], "token_logits")
    backbone.choose_layout("auto")
    return backbone


def write(backbone: Backbone, prompts: list[str], times: int, seed: int) -> list[tuple[list[int], list[int]]]:
    asked = [encode_prompt(backbone.tokenizer, [{"role": "user", "content": one}]) for one in prompts]
    many = [ids for ids in asked for _ in range(times)]
    grown = generate(
        backbone,
        many,
        max_new_tokens=LONGEST,
        temperature=1.0,
        seed=seed,
        batch_size=48,
        whole=True,
        stop=ends(backbone),
    )
    return list(zip(many, grown, strict=True))


def ends(backbone: Backbone) -> list[int]:
    from luthier.data.text.template import turn_terminators

    return sorted({*terminators(backbone), *turn_terminators(backbone.tokenizer)})


def said(backbone: Backbone, ids: list[int]) -> str:
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def measure(tuned: Backbone, came: Backbone, seed: int) -> dict[str, Any]:
    """Reward, KL, and how much sense the base makes of what is said: log π_ref a token."""
    written = [pair for pair in write(tuned, ASKED, TIMES, 1000 + seed) if pair[1]]
    rows = [
        {"row": at, "input_ids": a + b, "lengths": [len(a) + len(b)], "supervised": [False] * len(a) + [True] * len(b)}
        for at, (a, b) in enumerate(written)
    ]
    logs, reference = (torch.cat(Reader(one, 4096).outputs(TokenReader(one), rows)) for one in (tuned, came))
    texts = [said(tuned, ids) for _, ids in written]
    words = [re.findall(r"[a-z]+", text.lower()) for text in texts]
    rewards = verifier("contains")([[]] * len(texts), texts, ["red"] * len(texts))
    return {
        "reward": mean(rewards), "kl": float((logs - reference).mean()), "sense": float(reference.mean()),
        "length": mean(len(ids) for _, ids in written), "ended": mean(ids[-1] in ends(tuned) for _, ids in written),
        "red_words": mean(some.count("red") / max(5, len(some)) for some in words), "says": texts[:: TIMES * 4],
    }  # fmt: skip


def keep(name: str, found: dict[str, Any]) -> None:
    told = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    told[name] = found
    RESULTS.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(name, {key: value for key, value in found.items() if key != "says"}, flush=True)


def start(seed: int, came: Backbone, folder: Path) -> None:
    keep(f"start {seed}", measure(came, came, seed))
    eight = write(came, ASKED, TIMES, 2000 + seed)
    right = [float(is_red(said(came, ids))) for _, ids in eight]
    best = [max(right[at : at + TIMES]) for at in range(0, len(right), TIMES)]
    keep(f"best of {TIMES} {seed}", {"reward": mean(best)})


def is_red(text: str) -> bool:
    return "red" in re.findall(r"\w+", text.lower())


def online(name: str, seed: int, came: Backbone, folder: Path) -> None:
    section = SECTIONS[name]
    steps = ROLLOUTS * section.get("epochs", 1)
    run = luthier.tune(ONLINE | {name: section, "steps": steps, "seed": seed, "out": str(folder), "name": name})
    watched = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rewards = [line["reward"] for line in watched if line["kind"] == "train"]
    found = measure(run.predictor.backbone, came, seed)
    keep(f"{name} {seed}", found | {"seconds": watched[-1]["seconds"], "sampled": rewards[:: len(rewards) // ROLLOUTS]})


def supervised(seed: int, came: Backbone, folder: Path) -> None:
    prompts = [json.loads(line)["prompt"] for line in WISHES.read_text(encoding="utf-8").splitlines()]
    times = ROLLOUTS * ANSWERS // len(prompts)
    written = write(came, prompts, times, 3000 + seed)
    asked = [prompt for prompt in prompts for _ in range(times)]
    rows = [
        {"prompt": prompt, "completion": said(came, ids)}
        for prompt, (_, ids) in zip(asked, written, strict=True)
        if is_red(said(came, ids)) and ids[-1] in ends(came)
    ]
    path = folder / "rewarded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = luthier.tune(SHARED | {
        "task": "chat", "data": {"train": str(path), "eval": 0.0}, "epochs": 3, "batch_size": 8, "seed": seed,
        "out": str(folder), "name": "sft",
    })  # fmt: skip
    keep(f"supervised {seed}", measure(run.predictor.backbone, came, seed) | {"rows": len(rows)})


def learn(way: str, seed: int) -> None:
    came, folder = base(), Path(tempfile.mkdtemp())
    if way in SECTIONS:
        online(way, seed, came, folder)
    else:
        {"start": start, "supervised": supervised}[way](seed, came, folder)


def hack(beta: float) -> None:
    came, folder = base(), Path(tempfile.mkdtemp())
    (folder / "proxy.py").write_text(PROXY, encoding="utf-8")
    rewards = {"rewards": [{"function": f"{folder / 'proxy.py'}:redness"}]}
    section = SECTIONS["grpo"] | {"beta": beta, "max_new_tokens": 24}
    run = luthier.tune(ONLINE | {
        "reinforce": rewards, "grpo": section, "steps": 30, "learning_rate": 5e-3, "out": str(folder), "name": "red",
    })  # fmt: skip
    keep(f"redness, beta {beta}", measure(run.predictor.backbone, came, 0))


def spread(values: list[float]) -> str:
    """Mean, and its 95 % interval over seeds (Student's t)."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    wide = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.3f} ± {wide:.3f}"


def tell() -> None:
    told = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["# Learning from rewards", "", str(__doc__).partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += ["| | reward | KL, nats a token | log π_ref, a token | seeds |", "|---|---|---|---|---|"]
    for name in ("start", f"best of {TIMES}", "supervised", "grpo", "ppo"):
        seeds = [one for key, one in sorted(told.items()) if re.fullmatch(rf"{name} \d+", key)]
        columns = [[one[key] for one in seeds if key in one] for key in ("reward", "kl", "sense")]
        cells = [spread(column) if column else "–" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(seeds)} |")
    lines += ["", "Intervals are 95 % over seeds (Student's t).", "", "## A reward that is not what is meant", ""]
    lines += [
        "The reward is the share of the words that are `red`; GRPO, 30 rollouts of 48 answers of 24 tokens, one seed.",
        "",
    ]
    lines += [
        "| beta | share of red | tales with red | came to an end | KL | log π_ref | says |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, one in sorted(told.items()):
        if key.startswith("redness"):
            cells = [f"{one[name]:.3f}" for name in ("red_words", "reward", "ended", "kl", "sense")]
            text = one["says"][0].replace("\n", " ").replace("|", "/")[:110]
            lines.append(f"| {key.rpartition(' ')[2]} | {' | '.join(cells)} | {text} |")
    (HERE / "results/learning_from_rewards.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "tell":
        tell()
    elif sys.argv[1] == "hack":
        hack(float(sys.argv[2]))
    else:
        learn(sys.argv[1], int(sys.argv[2]))
