"""Models that write of pictures by other ways than those that are known are refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

import luthier
import tiny

TOWER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def test_what_reads_pictures_otherwise_is_refused(tmp_path: Path) -> None:
    """GIT reads a picture before its row, in no token's place."""
    words = tiny.tokenizer(encoder=False)
    seen = TOWER | {"image_size": tiny.SIDE, "patch_size": 8}
    config = transformers.GitConfig(vision_config=seen, vocab_size=len(words), **TOWER)
    transformers.GitForCausalLM(config).save_pretrained(tmp_path / "model")
    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    transformers.BlipImageProcessor(size=side).save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    tiny.save_picture(tmp_path / "a.png", "red")
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [{"image": "a.png", "caption": "the red cat"}] * 2)
    findings, _ = luthier.check(
        task="caption", model=str(tmp_path / "model"), data={"train": data, "eval": 0.0}, method="lora"
    )
    (error,) = (found for found in findings if found.severity == "error")
    assert error.code == "model.processor"
    assert "has no place among its tokens" in error.what
    assert error.mend
