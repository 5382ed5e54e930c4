"""What ``luthier plan`` says of a run's memory and time, beside what the run takes.

    python benchmarks/plan_error.py             # every combination; what is measured already is kept
    python benchmarks/plan_error.py --again     # measure anew
    python benchmarks/plan_error.py --table     # the table of what was measured, nothing run

Each combination of model, method, batch and micro_tokens is planned in one fresh process and run for a few steps in
another; ``measured`` is that process's ru_maxrss. ``above`` takes off, from both, what that process held when its model
was loaded and every weight touched (interpreter, libraries, rows, weights): the harder number. Random models are built
from configs, with a vocabulary of 32,000; the starter encoder and stories260k are real ones, the latter read from
../shared. One thread, fp32 where nothing else is said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
RESULT = HERE / "results" / "plan_error.json"
STEPS = 3

SIZES = {
    "llama-22M": ("llama", {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1024,
                            "num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-55M": ("llama", {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408,
                            "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": False}),
    "gpt2-20M": ("gpt2", {"n_embd": 384, "n_layer": 4, "n_head": 6, "n_positions": 1024}),
    "bert-24M": ("bert", {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536,
                          "num_attention_heads": 6}),
    "tiny-bert": ("bert", {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
                           "num_attention_heads": 2}),
    "tiny-llama": ("llama", {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128,
                             "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}),
}  # fmt: skip
# Of pictures of 128 × 128: an image encoder, and a model that compares them with texts.
SEEING = {
    "vit-11M": ("vit", {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "num_attention_heads": 6,
                        "image_size": 128, "patch_size": 16}),
    "clip-15M": ("clip", {
        "projection_dim": 256,
        "text_config": {"vocab_size": 32_000, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024,
                        "num_attention_heads": 4, "projection_dim": 256, "bos_token_id": 0, "eos_token_id": 1,
                        "pad_token_id": 2},
        "vision_config": {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024,
                          "num_attention_heads": 4, "image_size": 128, "patch_size": 16, "projection_dim": 256},
    }),
}  # fmt: skip
# model, method, batch_size, micro_tokens, more words
CASES: list[tuple[str, str, int, int, tuple[str, ...]]] = [
    ("starter:minilm", "full", 16, 1024, ()),
    ("starter:minilm", "full", 24, 4096, ()),
    ("starter:minilm", "lora", 16, 1024, ()),
    ("starter:minilm", "lora", 24, 4096, ()),
    ("starter:minilm", "freeze", 16, 1024, ()),
    ("starter:minilm", "freeze", 16, 2048, ("freeze.last=2",)),
    ("starter:minilm", "features", 16, 1024, ()),
    ("starter:minilm", "features", 16, 4096, ()),
    ("starter:minilm", "full", 16, 2048, ('packing="off"',)),
    ("starter:minilm", "full", 16, 2048, ("gradient_checkpointing=true",)),
    ("bert-24M", "full", 16, 1024, ()),
    ("bert-24M", "full", 24, 4096, ()),
    ("bert-24M", "lora", 16, 2048, ()),
    ("bert-24M", "freeze", 16, 2048, ("freeze.train=[norms]",)),
    ("bert-24M", "features", 16, 2048, ()),
    ("tiny-bert", "full", 16, 1024, ()),
    ("tiny-bert", "lora", 16, 4096, ()),
    ("tiny-bert", "features", 16, 1024, ()),
    ("llama-22M", "full", 8, 1024, ()),
    ("llama-22M", "full", 8, 4096, ()),
    ("llama-22M", "lora", 8, 1024, ()),
    ("llama-22M", "lora", 8, 4096, ()),
    ("llama-22M", "freeze", 8, 1024, ("freeze.last=1",)),
    ("llama-22M", "lora", 8, 2048, ("precision=bf16",)),
    ("llama-22M", "full", 8, 2048, ("max_length=160", "overlong=truncate")),
    ("llama-55M", "full", 4, 1024, ()),
    ("llama-55M", "lora", 8, 2048, ()),
    ("llama-55M", "lora", 8, 2048, ("gradient_checkpointing=true",)),
    ("gpt2-20M", "full", 8, 1024, ()),
    ("gpt2-20M", "lora", 8, 4096, ()),
    ("tiny-llama", "full", 8, 1024, ()),
    ("tiny-llama", "lora", 8, 4096, ()),
    ("stories260k", "full", 16, 1024, ()),
    ("stories260k", "lora", 16, 4096, ()),
    ("starter:minilm", "adapter", 16, 2048, ()),
    ("starter:minilm", "houlsby", 16, 1024, ()),
    ("starter:minilm", "prefix", 16, 2048, ()),
    ("starter:minilm", "prompt", 16, 2048, ()),
    ("starter:minilm", "ia3", 16, 2048, ()),
    ("bert-24M", "bitfit", 16, 2048, ()),
    ("bert-24M", "dora", 16, 1024, ()),
    ("llama-22M", "adapter", 8, 2048, ()),
    ("llama-22M", "prefix", 8, 2048, ()),
    ("llama-22M", "prompt", 8, 1024, ()),
    ("llama-55M", "adapter", 8, 2048, ("gradient_checkpointing=true",)),
    ("vit-11M", "full", 16, 1024, ()),
    ("vit-11M", "lora", 32, 4096, ()),
    ("clip-15M", "full", 16, 2048, ()),
    ("clip-15M", "lora", 32, 1024, ()),
    ("vit-11M + bert-24M, concatenation", "lora", 16, 2048, ()),
    ("vit-11M + llama-22M, projection", "full", 8, 1024, ()),
    ("vit-11M + llama-22M, cross_attention", "lora", 16, 2048, ()),
]

# In the run's own process: the memory of the loaded model with every weight touched, before the method is applied.
RUN = """
import json, sys
from pathlib import Path
from luthier.runs import prepare

adapt = prepare._adapt

def noted(resolved, backbone, findings):
    for tensor in backbone.model.parameters():
        float(tensor.sum())
    status = Path("/proc/self/status").read_text()
    print("loaded", int(status.split("VmRSS:")[1].split()[0]) * 1024, file=sys.stderr)
    return adapt(resolved, backbone, findings)

prepare._adapt = noted
from luthier.cli.main import main
main(sys.argv[1:])
"""


def build(folder: Path) -> None:
    """The random models and the rows, in a process of its own, so that this one stays small."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import torch
    import transformers

    import tiny

    for name, (kind, values) in SIZES.items():
        common = {"vocab_size": 32_000, "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 1}
        config = transformers.AutoConfig.for_model(kind, **common, pad_token_id=2, **values)
        encoder = kind == "bert"
        auto = transformers.AutoModelForMaskedLM if encoder else transformers.AutoModelForCausalLM
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(folder / name)
        tokenizer = tiny.tokenizer(encoder=encoder)
        tokenizer.model_max_length = 1024
        tokenizer.save_pretrained(folder / name)
    for name, (kind, values) in SEEING.items():
        build_seeing(folder / name, kind, values)
    draw = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(draw.choices(tiny.WORDS, k=draw.randint(least, most)))

    classes = [{"text": f"{words(20, 200)} {i}", "label": draw.choice("abc")} for i in range(160)]
    chats = [
        {"messages": [{"role": "user", "content": words(20, 110)},
                      {"role": "assistant", "content": f"{words(20, 110)} {i}"}]}
        for i in range(64)
    ]  # fmt: skip
    texts = [{"text": f"{words(10, 40)} {i}"} for i in range(80)]
    pictures = []
    for i in range(96):
        tiny.save_picture(folder / "pictures" / f"{i}.png", ("red", "green", "blue")[i % 3], size=160, seed=i)
        pictures.append({"image": f"pictures/{i}.png", "label": "abc"[i % 3]})
    captions = [{"image": row["image"], "caption": f"{words(5, 20)} {i}"} for i, row in enumerate(pictures)]
    asked = [row | {"text": f"{words(5, 40)} {i}"} for i, row in enumerate(pictures)]
    files = {"classify": classes, "chat": chats, "complete": texts, "seen": pictures, "match": captions,
             "caption": captions, "asked": asked}  # fmt: skip
    for name, rows in files.items():
        tiny.write_jsonl(folder / f"{name}.jsonl", rows)


def build_seeing(folder: Path, kind: str, values: dict[str, Any]) -> None:
    import torch
    import transformers

    import tiny

    torch.manual_seed(0)
    made: Any = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **values))
    made.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"height": 128, "width": 128}, crop_size={"height": 128, "width": 128}
    ).save_pretrained(folder)
    if kind == "clip":
        tokenizer = tiny.tokenizer(encoder=False, closes=True)
        tokenizer.model_max_length = 77
        tokenizer.save_pretrained(folder)


def name_of(case: Any) -> str:
    model, method, batch, tokens, more = case
    return f"{model} {method} batch {batch}, micro {tokens}{', ' if more else ''}{' '.join(more)}"


def words_of(case: Any, folder: Path) -> list[str] | None:
    """The command's words after the verb, or None where the model is not here."""
    model, method, batch, tokens, more = case
    common = ["--method", method, f"batch_size={batch}", f"micro_tokens={tokens}"]
    if model in SEEING:
        task, data = ("classify", "seen") if "vit" in model else ("match", "match")
        files = ["--task", task, "--model", str(folder / model), "--data", str(folder / f"{data}.jsonl")]
        return [*files, *common, f"steps={STEPS}", *more]
    if "+" in model:
        towers, _, fuse = model.partition(", ")
        image, text = (str(folder / one) for one in towers.split(" + "))
        task, data = ("classify", "asked") if "bert" in text else ("caption", "caption")
        files = ["--task", task, "--data", str(folder / f"{data}.jsonl"), f"model.image={image}", f"model.text={text}"]
        return [*files, *common, f"model.fuse={fuse}", f"steps={STEPS}", *more]
    task = "classify" if "bert" in model or "minilm" in model else "complete" if model == "stories260k" else "chat"
    path = str(folder / model) if model in SIZES else model
    if model == "stories260k":
        path = str(SHARED / "models" / "stories260k-fp32")
        if not Path(path).is_dir():
            return None
    given = ["--task", task, "--model", path, "--data", str(folder / f"{task}.jsonl"), "--method", method]
    steps = () if method == "features" else (f"steps={STEPS}",)
    return [*given, f"batch_size={batch}", f"micro_tokens={tokens}", *steps, *more]


def planned(words: list[str], folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "luthier", "plan", *words, "--json", f"out={folder / 'planned'}"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment())
    if ran.returncode:
        raise RuntimeError(ran.stdout[-2000:] + ran.stderr[-2000:])
    return json.loads(ran.stdout)


def measured(words: list[str], folder: Path) -> dict[str, float]:
    """Peak and loaded megabytes, and the median seconds of a step, of the run in a fresh process."""
    command = [sys.executable, "-c", RUN, "tune", *words, "--json", f"out={folder}"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    if process.returncode:
        raise RuntimeError(texts[0][-2000:] + texts[1][-2000:])
    loaded = int(texts[1].split("loaded ")[1].split()[0]) / 2**20
    lines = Path(json.loads(texts[0])["run"]) / "metrics.jsonl"
    records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    at = [record["seconds"] for record in records if record["kind"] == "train"]
    steps = [b - a for a, b in itertools.pairwise(at)]
    return {
        "peak_mb": usage.ru_maxrss / 1024,
        "loaded_mb": loaded,
        "step_s": statistics.median(steps) if steps else 0.0,
    }


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def compare(case: Any, words: list[str], folder: Path, before: dict[str, Any] | None) -> dict[str, Any]:
    """``before``: what was measured of this combination, where it is only planned anew."""
    plan = planned(words, folder)
    if before is None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            run = measured(words, Path(out))
    else:
        run = {"peak_mb": before["measured_mb"], "loaded_mb": before["loaded_mb"], "step_s": before["measured_step_s"]}
    parts = plan["memory"]["parts_mb"]
    return {
        "case": name_of(case),
        "planned_mb": plan["memory"]["peak_mb"], "measured_mb": round(run["peak_mb"], 1),
        "worst": plan["memory"]["worst"], "parts_mb": parts, "loaded_mb": round(run["loaded_mb"], 1),
        "planned_step_s": plan["time"]["step_s"], "measured_step_s": round(run["step_s"], 4), "notes": plan["notes"],
    }  # fmt: skip


def error(row: dict[str, Any], kind: str) -> float:
    return row[f"planned_{kind}"] / row[f"measured_{kind}"] - 1


def above(row: dict[str, Any]) -> tuple[float, float, float]:
    """Planned and measured megabytes above the loaded model, and the error."""
    planned_mb, measured_mb = (row[key] - row["loaded_mb"] for key in ("planned_mb", "measured_mb"))
    return planned_mb, measured_mb, planned_mb / measured_mb - 1


def summary(errors: list[float]) -> str:
    sizes = sorted(abs(one) for one in errors)
    within = sum(one <= 0.1 for one in sizes)
    return f"median {statistics.median(sizes):.1%}, worst {sizes[-1]:.1%}, within 10 %: {within} of {len(sizes)}"


def table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    peak, grown = [error(row, "mb") for row in rows], [above(row) for row in rows]
    timed = [row for row in rows if row["measured_step_s"] > 0 and row["planned_step_s"] > 0]
    lines = [
        "# The error of `luthier plan`", "",
        f"Written by `benchmarks/plan_error.py` on {machine['processor']}, one thread, {machine['libc']}, torch"
        f" {machine['torch']}. Uncorrected by runs. Megabytes are 2**20 bytes.", "",
        f"- Peak of the process: {summary(peak)}.",
        f"- Above the loaded model: {summary([one for *_, one in grown])}.",
        f"- Seconds of a step, estimated: {summary([error(row, 'step_s') for row in timed])}"
        f" (load of the machine while measuring: {machine['load']}).", "",
        "| combination | planned | measured | error | planned above | measured above | error above | worst moment |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for row, one, (planned_mb, measured_mb, two) in zip(rows, peak, grown, strict=True):
        lines.append(
            f"| {row['case']} | {row['planned_mb']:,.0f} | {row['measured_mb']:,.0f} | {one:+.1%} |"
            f" {planned_mb:,.0f} | {measured_mb:,.0f} | {two:+.1%} | {row['worst']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--replan", action="store_true", help="plan anew what was measured, and measure nothing")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", help="cases whose name has this in it")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        build(Path(given.build))
        return
    known: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() and not given.again else {"rows": {}}
    if not given.table:
        with tempfile.TemporaryDirectory() as name:
            measure(known, Path(name), given.only or "", replan=given.replan)
    rows = [known["rows"][name_of(case)] for case in CASES if name_of(case) in known["rows"]]
    RESULT.with_suffix(".md").write_text(table(rows, known["machine"]), encoding="utf-8")
    print(table(rows, known["machine"]))


def measure(known: dict[str, Any], folder: Path, only: str, *, replan: bool) -> None:
    from importlib.metadata import version

    subprocess.run(
        [sys.executable, __file__, "--build", str(folder)], check=True, env=environment(), stderr=subprocess.DEVNULL
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    known["machine"] = {"processor": processor, "cores": os.cpu_count(), "libc": " ".join(platform.libc_ver()),
                        "torch": version("torch"), "transformers": version("transformers"), "load": ""}  # fmt: skip
    for case in [*CASES[::3], *CASES[1::3], *CASES[2::3]]:  # where it is stopped, it has seen some of each
        key = name_of(case)
        words = words_of(case, folder)
        if (key in known["rows"]) != replan or only not in key or words is None:
            continue
        began = time.monotonic()
        try:
            known["rows"][key] = row = compare(case, words, folder, known["rows"].get(key))
        except RuntimeError as failed:
            print(f"{key}: failed\n{failed}", flush=True)
            continue
        known["machine"]["load"] = f"{os.getloadavg()[2]:.1f}"
        RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        planned_mb, measured_mb, grown = above(row)
        print(f"{row['case']}: {row['planned_mb']:,.0f} / {row['measured_mb']:,.0f} MB {error(row, 'mb'):+.1%}, above"
              f" {planned_mb:,.0f} / {measured_mb:,.0f} {grown:+.1%}, worst {row['worst']}"
              f" ({time.monotonic() - began:.0f} s)", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
