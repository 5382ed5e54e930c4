"""Models that write of pictures by other ways than a picture's tokens in the row: each is refused with the reason."""

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
    "blip-2": ("model.head", "no trunk that gives hidden states"),
}


def built(words: Any) -> Any:
    size, mark = len(words), words.convert_tokens_to_ids("<image>")
    text, reader = tiny.config("llama", vocab_size=size).to_dict(), TOWER | {"encoder_hidden_size": 32}
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=reader, text_config=text, num_query_tokens=4, image_token_index=mark
    )
    return transformers.Blip2ForConditionalGeneration(config)


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_reads_pictures_otherwise_is_refused(kind: str, tmp_path: Path) -> None:
    words = tiny.tokenizer(encoder=False)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    words.chat_template = tiny.IN_PARTS.replace("IMAGE", "<image>")
    pictures = transformers.CLIPImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}, do_center_crop=False)
    for part in (built(words), words, pictures):
        part.save_pretrained(tmp_path / "model")
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
