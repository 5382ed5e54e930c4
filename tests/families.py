"""Tiny vision-language models of more families, each saved as its family's folders are: with a processor that reads
films too (``FILMS``), one that lays whole rows out, or none. A processor that can't be built where torchvision is
missing is written down as its files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers as t

import tiny
from luthier.models.backbone import Backbone
from luthier.models.load import load

B = TypeVar("B", bound=Backbone)

APART = ("vit-gpt2", "vit-bert", "donut")
TAGS = ["<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>", "</s_answer>"]
DONUT = {"prefix": "<s_docvqa><s_question>", "separator": "</s_question><s_answer>", "closing": "</s_answer>"}
"""What Donut's decoder is asked by, and what ends its answer."""
LEADING = ("blip-2", "blip-2-t5", "instructblip", "instructblip-t5")
PREFIX = ("paligemma",)
FILMS = ("smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NAMES = {"smolvlm": "SmolVLM", "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
TOWER: dict[str, Any] = {
    "hidden_size": tiny.WIDTH, "num_hidden_layers": tiny.LAYERS, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip


def opened(folder: str, kind: type[B]) -> B:
    """The model in a folder, to write, and of this kind; without dropout."""
    made = load("vlm", folder, "token_logits")
    assert isinstance(made, kind)
    made.model.eval()
    made.choose_layout("auto")
    return made


def save(kind: str, folder: Path, *, seed: int = 0) -> str:
    """A random model of a family of ``FILMS``, with its tokenizer and what is told of its processor: its path."""
    if kind in PREFIX:
        return _save_prefix(folder, seed)
    if kind in APART:
        return _save_apart(kind, folder, seed)
    if kind in LEADING:
        return _save_leading(kind, folder, seed)
    mark, added = _marks(kind)
    words = tiny.tokenizer(encoder=False)
    words.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    words.model_max_length = 512
    shown = mark if kind == "smolvlm" else f"<|vision_start|>{mark}<|vision_end|>"
    words.chat_template = tiny.IN_PARTS.replace("IMAGE", shown)
    ids = {token: words.convert_tokens_to_ids(token) for token in added}
    drawn(_config(kind, ids, len(words)), seed).save_pretrained(folder)
    words.save_pretrained(folder)
    _image_processor(kind).save_pretrained(folder)
    told = folder / "preprocessor_config.json"
    named = {"processor_class": f"{NAMES[kind]}Processor"}
    told.write_text(json.dumps(json.loads(told.read_text()) | named))
    more = {"image_seq_len": 4} if kind == "smolvlm" else {}
    (folder / "processor_config.json").write_text(json.dumps(named | more))
    (folder / "chat_template.jinja").write_text(words.chat_template)
    return str(folder)


def _save_prefix(folder: Path, seed: int) -> str:
    pictures = t.SiglipImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}, image_seq_length=16)
    reader: Any = t.PaliGemmaProcessor(pictures, tiny.tokenizer(encoder=False))
    words = reader.tokenizer
    words.chat_template, words.model_max_length = None, 512
    text = TOWER | {"model_type": "gemma", "vocab_size": len(words), "num_key_value_heads": 1, "head_dim": 16,
                    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
                    "max_position_embeddings": 512}  # fmt: skip
    seen = TOWER | {"model_type": "siglip_vision_model", "image_size": tiny.SIDE, "patch_size": 8}
    config = t.PaliGemmaConfig(
        vision_config=seen, text_config=text, projection_dim=tiny.WIDTH,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    drawn(config, seed).save_pretrained(folder)
    reader.save_pretrained(folder)
    return str(folder)


def _save_apart(kind: str, folder: Path, seed: int) -> str:
    """A ViT with a decoder of its width, or one of another, which a projection stands before; or Donut's Swin, whose
    decoder begins with tags."""
    if kind == "donut":
        return _save_donut(folder, seed)
    narrow = kind == "vit-bert"
    words = tiny.tokenizer(encoder=narrow)
    text = tiny.config("bert" if narrow else "gpt2", vocab_size=len(words), is_decoder=True, add_cross_attention=True)
    seen = t.ViTConfig(**TOWER | ({"hidden_size": 48} if narrow else {}), image_size=tiny.SIDE, patch_size=8)
    begins = {"decoder_start_token_id": 3, "eos_token_id": 4} if narrow else {"decoder_start_token_id": 0}
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        seen, text, **{"eos_token_id": 1, "pad_token_id": 2, **begins}
    )
    drawn(config, seed).save_pretrained(folder)
    words.save_pretrained(folder)
    t.ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder)
    return str(folder)


def _save_donut(folder: Path, seed: int) -> str:
    words = tiny.tokenizer(encoder=False)
    words.add_tokens(TAGS)
    text = t.MBartConfig(
        d_model=tiny.WIDTH, decoder_layers=tiny.LAYERS, decoder_attention_heads=2, decoder_ffn_dim=48,
        vocab_size=len(words), max_position_embeddings=128, is_decoder=True, add_cross_attention=True, dropout=0.0,
        encoder_layers=tiny.LAYERS, encoder_attention_heads=2, encoder_ffn_dim=8,
    )  # fmt: skip
    seen = t.DonutSwinConfig(
        image_size=tiny.SIDE, patch_size=4, embed_dim=tiny.WIDTH // 2, depths=[1, 1], num_heads=[2, 2], window_size=4,
    )  # fmt: skip
    told = {"eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 0}
    drawn(t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(seen, text, **told), seed).save_pretrained(folder)
    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    t.DonutProcessor(t.DonutImageProcessor(size=side), words).save_pretrained(folder)
    return str(folder)


def _save_leading(kind: str, folder: Path, seed: int) -> str:
    """A ViT, a Q-Former (which of InstructBLIP reads the question by a tokenizer of its own) and an OPT, a Llama or a
    T5."""
    text, asked = "t5" if kind.endswith("t5") else "llama", kind.startswith("instructblip")
    pictures = t.BlipImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE})
    words = tiny.tokenizer(encoder=False, closes=text == "t5")
    questions = [tiny.tokenizer(encoder=True)] if asked else []
    whole: Any = t.InstructBlipProcessor if asked else t.Blip2Processor
    reader = whole(pictures, words, *questions, num_query_tokens=4)
    reader.tokenizer.chat_template, reader.tokenizer.model_max_length = None, 512
    former = TOWER | {"encoder_hidden_size": tiny.WIDTH, "max_position_embeddings": 24}
    config: Any = t.InstructBlipConfig if asked else t.Blip2Config
    told = config(
        vision_config=TOWER | {"image_size": tiny.SIDE, "patch_size": 8}, num_query_tokens=4,
        qformer_config=former | ({"vocab_size": len(questions[0])} if questions else {}),
        text_config=_opt(len(words)) if kind == "blip-2" else tiny.config(text, vocab_size=len(words)).to_dict(),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    drawn(told, seed).save_pretrained(folder)
    reader.save_pretrained(folder)
    return str(folder)


def _opt(size: int) -> dict[str, Any]:
    config = t.OPTConfig(
        hidden_size=tiny.WIDTH, word_embed_proj_dim=tiny.WIDTH, ffn_dim=48, num_hidden_layers=tiny.LAYERS,
        num_attention_heads=2, vocab_size=size, max_position_embeddings=128, dropout=0.0, bos_token_id=0,
        eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    return config.to_dict()


def drawn(config: Any, seed: int) -> Any:
    """Wide, so that hidden states differ by what is seen."""
    torch.manual_seed(seed)
    model = t.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)
    return model


def _marks(kind: str) -> tuple[str, list[str]]:
    if kind == "smolvlm":
        rows = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
        around = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"]
        return "<image>", ["<image>", *around, *rows]
    return "<|image_pad|>", ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


def _config(kind: str, ids: dict[str, int], size: int) -> Any:
    seen: dict[str, Any]
    if kind == "smolvlm":
        seen = TOWER | {"image_size": tiny.SIDE, "patch_size": 8}
        text: Any = tiny.config("llama", vocab_size=size, max_position_embeddings=512)
        return t.SmolVLMConfig(vision_config=seen, text_config=text, scale_factor=2, image_token_id=ids["<image>"])
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    text = TOWER | {"vocab_size": size, "num_key_value_heads": 1, "rope_parameters": rope, "head_dim": 16,
                    "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
                    "pad_token_id": 2}  # fmt: skip
    seen = {"depth": tiny.LAYERS, "num_heads": 2, "patch_size": 8, "hidden_size": tiny.WIDTH}
    seen |= {
        "qwen2_vl": {"embed_dim": tiny.WIDTH, "mlp_ratio": 2},
        "qwen2_5_vl": {"out_hidden_size": tiny.WIDTH, "intermediate_size": 48, "window_size": 32,
                       "fullatt_block_indexes": [1]},
        "qwen3_vl": {"out_hidden_size": tiny.WIDTH, "intermediate_size": 48, "num_position_embeddings": 16,
                     "deepstack_visual_indexes": [0]},
    }[kind]  # fmt: skip
    of_kind = {"qwen2_vl": t.Qwen2VLConfig, "qwen2_5_vl": t.Qwen2_5_VLConfig, "qwen3_vl": t.Qwen3VLConfig}[kind]
    return of_kind(
        text_config=text, vision_config=seen, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip


def _image_processor(kind: str) -> Any:
    if kind == "smolvlm":
        return t.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": tiny.SIDE})
    return t.Qwen2VLImageProcessor(min_pixels=256, max_pixels=1600, patch_size=8, merge_size=2)


def processor(kind: str, folder: str) -> Any:
    """transformers' own, opened whole where it can be; else its own class on its own parts, short of the films'."""
    from importlib.util import find_spec

    if kind not in FILMS or (find_spec("torchvision") and find_spec("num2words")):
        return t.AutoProcessor.from_pretrained(folder)
    whole: Any = {"smolvlm": t.SmolVLMProcessor, "qwen2_vl": t.Qwen2VLProcessor, "qwen2_5_vl": t.Qwen2_5_VLProcessor,
                  "qwen3_vl": t.Qwen3VLProcessor}[kind]  # fmt: skip
    words = t.AutoTokenizer.from_pretrained(folder)

    class OfPictures(whole):
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: Any = None) -> None:
            for name in ("image", "video"):
                token = f"<|{name}_pad|>" if kind != "smolvlm" else f"<{name}>"
                setattr(self, f"{name}_token", token)
                setattr(self, f"{name}_token_id", words.convert_tokens_to_ids(token))
            self.image_seq_len, self.fake_image_token = 4, "<fake_token_around_image>"
            self.global_image_token, self.end_of_utterance_token = "<global-img>", "<end_of_utterance>"
            t.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return OfPictures(t.AutoImageProcessor.from_pretrained(folder), words, words.chat_template)
