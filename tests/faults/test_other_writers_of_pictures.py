"""Models that write of pictures by other ways than those that are known: each is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import luthier
import tiny

TOWER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
VISION: dict[str, Any] = TOWER | {"image_size": tiny.SIDE, "patch_size": 8}
EXPECTED = {
    "git": ("model.processor", "has no place among its tokens"),
    "blip-2": ("model.head", "is no decoder with a head of its own"),
    "instructblip": ("model.processor", "makes more of a picture than tokens before the row and its pixels"),
}


def built(kind: str, words: Any, folder: Path) -> None:
    """The model and its processor."""
    t, side = transformers, {"height": tiny.SIDE, "width": tiny.SIDE}
    pictures = t.BlipImageProcessor(size=side)
    if kind == "git":
        t.GitForCausalLM(t.GitConfig(vision_config=VISION, vocab_size=len(words), **TOWER)).save_pretrained(folder)
        pictures.save_pretrained(folder)
        words.save_pretrained(folder)
        return
    reader: Any = t.Blip2Processor if kind == "blip-2" else t.InstructBlipProcessor
    parts = [pictures, words] if kind == "blip-2" else [pictures, words, tiny.tokenizer(encoder=True)]
    reader(*parts, num_query_tokens=4).save_pretrained(folder)
    size, mark = len(words), words.convert_tokens_to_ids("<image>")
    text = tiny.config("t5" if kind == "blip-2" else "llama", vocab_size=size).to_dict()
    configs: dict[str, Any] = {"blip-2": t.Blip2Config, "instructblip": t.InstructBlipConfig}
    heads: dict[str, Any] = {
        "blip-2": t.Blip2ForConditionalGeneration,
        "instructblip": t.InstructBlipForConditionalGeneration,
    }
    config = configs[kind](
        vision_config=VISION,
        qformer_config=TOWER | {"encoder_hidden_size": 32},
        text_config=text,
        num_query_tokens=4,
        image_token_index=mark,
    )
    heads[kind](config).save_pretrained(folder)


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_reads_pictures_otherwise_is_refused(kind: str, tmp_path: Path) -> None:
    words = tiny.tokenizer(encoder=False)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    built(kind, words, tmp_path / "model")
    tiny.save_picture(tmp_path / "a.png", "red")
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"image": "a.png", "caption": "the red cat"}] * 2)
    findings, _ = luthier.check(
        task="caption", model=str(tmp_path / "model"), data={"train": data, "eval": 0.0}, method="lora"
    )
    code, words_of_it = EXPECTED[kind]
    (error,) = (found for found in findings if found.severity == "error")
    assert error.code == code
    assert words_of_it in error.what
    assert error.mend
