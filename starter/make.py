"""Make the starter language model again, from nothing: corpus, tokenizer, two runs of Luthier, and a check of both.

    python starter/make.py [--to src/luthier/starter/lm]

About an hour on one core. `build/starter/` keeps the corpus and the runs; the model in bfloat16 goes to `--to`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus import write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

import luthier

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "starter"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 2048, 160, 5, 5, 512


def texts() -> Iterator[str]:
    for name in ("texts", "chat"):
        for line in (BUILD / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that it reads any text; every digit is a token of its own."""
    made = Tokenizer(models.BPE())
    digits, bytewise = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts(), trainer)
    ready = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, pad_token=PAD, model_max_length=POSITIONS, padding_side="right",
        additional_special_tokens=[START],
    )  # fmt: skip
    templates = Path(luthier.__file__).parent / "data" / "templates"
    ready.chat_template = (templates / "chatml.jinja").read_text(encoding="utf-8")
    return ready


def blank(folder: Path) -> None:
    """A config and a tokenizer; the weights are drawn by the first run (`model.init: random`)."""
    made = tokenizer()
    made.save_pretrained(folder)
    end, pad = made.convert_tokens_to_ids([END, PAD])
    LlamaConfig(
        vocab_size=len(made), hidden_size=WIDTH, intermediate_size=432, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=POSITIONS,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=end, pad_token_id=pad,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    GenerationConfig(eos_token_id=end, pad_token_id=pad).save_pretrained(folder)


def ship(run: Path, to: Path) -> None:
    """The final model in bfloat16, with its tokenizer."""
    final = run / "final"
    to.mkdir(parents=True, exist_ok=True)
    AutoModelForCausalLM.from_pretrained(final, dtype=torch.bfloat16).save_pretrained(to)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        if (final / name).is_file():
            shutil.copy(final / name, to / name)
    shutil.copy(BUILD / "problems.jsonl", HERE.parent / "src/luthier/recipes/data/problems/problems.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=HERE.parent / "src" / "luthier" / "starter" / "lm")
    to = parser.parse_args().to
    write(BUILD)
    blank(BUILD / "blank")
    for name in ("texts", "chat"):
        run = luthier.tune(str(HERE / f"{name}.yaml"))
    ship(run.folder, to)


if __name__ == "__main__":
    main()
