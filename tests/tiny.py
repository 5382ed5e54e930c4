"""Tiny models and tokenizers, built on the spot from a config and saved as folders that `from_pretrained` opens.

One tokenizer serves all: a byte-level BPE in which each toy word is one token. An encoder's closes a text in
``[CLS]`` and ``[SEP]``; a decoder's has a ChatML template and ends in ``</s>``; an encoder-decoder's closes a text in
``</s>``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LAYERS, WIDTH, WINDOW = 2, 32, 8
CHATML = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "<|im_start|>", "<|im_end|>"]
WORDS = ["red", "green", "blue", "cat", "dog", "bird", "tree", "house", "river", "small", "old", "new", "and", "the"]

ENCODERS = ("bert", "roberta", "modernbert", "modernbert-mean", "deberta-v2", "distilbert")
DECODERS = ("gpt2", "llama", "llama-tied", "qwen3", "gemma2", "gemma3", "mistral")
ENCODER_DECODERS = ("t5", "t5-tied", "bart")


@cache
def _backend() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    lines = [" ".join(WORDS), " ".join(reversed(WORDS)), "system user assistant\n", *WORDS]
    backend.train_from_iterator(lines * 8, trainer)
    return backend.to_str()


def tokenizer(*, encoder: bool, pad: str | None = "<pad>", closes: bool = False) -> Any:
    """``pad`` None: a tokenizer without one, as GPT-2's and Llama's are. ``closes``: each text ends in ``</s>``."""
    backend = Tokenizer.from_str(_backend())
    named = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 128} | ({"pad_token": pad} if pad else {})
    if encoder:
        ids = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
        named |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    if closes:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    if not encoder and not closes:
        made.chat_template = CHATML
    return made


def config(name: str, **changes: Any) -> Any:
    """The family's own config, made small. The weights are drawn wide, so that hidden states differ by their input."""
    like_bert: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48,
        "max_position_embeddings": 128, "initializer_range": 0.2,
    }  # fmt: skip
    like_llama = like_bert | {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": name.endswith("tied")}
    gemma = like_llama | {"sliding_window": WINDOW, "tie_word_embeddings": True, "query_pre_attn_scalar": 16}
    modern = like_bert | {"local_attention": WINDOW, "global_attn_every_n_layers": 2, "reference_compile": False}
    modern |= {"initializer_cutoff_factor": 3.0, "cls_token_id": 3, "sep_token_id": 4}
    t5 = {"d_model": WIDTH, "d_kv": 16, "d_ff": 48, "num_layers": LAYERS, "num_heads": 2, "dropout_rate": 0.0,
          "relative_attention_num_buckets": 8, "decoder_start_token_id": 2}  # fmt: skip
    bart = {"d_model": WIDTH, "max_position_embeddings": 128, "init_std": 0.2, "dropout": 0.0,
            "decoder_start_token_id": 1, "forced_eos_token_id": None}  # fmt: skip
    for stack in ("encoder", "decoder"):
        bart |= {f"{stack}_layers": LAYERS, f"{stack}_attention_heads": 2, f"{stack}_ffn_dim": 48}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("bert", like_bert),
        "roberta": ("roberta", like_bert | {"max_position_embeddings": 132}),
        "modernbert": ("modernbert", modern | {"classifier_pooling": "cls"}),
        "modernbert-mean": ("modernbert", modern | {"classifier_pooling": "mean"}),
        "deberta-v2": ("deberta-v2", like_bert | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
        "distilbert": ("distilbert", {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 48,
                                      "max_position_embeddings": 128, "initializer_range": 0.2}),
        "gpt2": ("gpt2", {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 128,
                          "initializer_range": 0.2}),
        "llama": ("llama", like_llama),
        "llama-tied": ("llama", like_llama),
        "qwen3": ("qwen3", like_llama),
        "gemma2": ("gemma2", gemma | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}),
        "gemma3": ("gemma3_text", gemma | {"layer_types": ["sliding_attention", "full_attention"]}),
        "mistral": ("mistral", like_llama | {"sliding_window": WINDOW}),
        # Version 1.1 is gated and untied; the first T5 is neither, and scales what its head reads.
        "t5": ("t5", t5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        "t5-tied": ("t5", t5 | {"feed_forward_proj": "relu", "tie_word_embeddings": True}),
        "bart": ("bart", bart),
    }  # fmt: skip
    kind, values = kinds[name]
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    size = len(tokenizer(encoder=name in ENCODERS))
    return transformers.AutoConfig.for_model(kind, **{**values, **ids, "vocab_size": size, **changes})


def build(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model with its language-modelling head: masked for an encoder, else one that writes."""
    writes = transformers.AutoModelForSeq2SeqLM if name in ENCODER_DECODERS else transformers.AutoModelForCausalLM
    auto = transformers.AutoModelForMaskedLM if name in ENCODERS else writes
    torch.manual_seed(seed)
    made = auto.from_config(config(name, **changes)).eval()
    if name == "t5":  # transformers ties every T5, and leaves a checkpoint's own head as it is
        made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight) * 0.2)
    if name == "bart":
        made.final_logits_bias.normal_()
        with torch.no_grad():
            for stack in (made.get_encoder(), made.get_decoder()):
                stack.embed_positions.weight.mul_(0.1)  # else places would say more than words
    return made


def save(name: str, folder: Path, *, seed: int = 0, pad: str | None = "<pad>", **changes: Any) -> str:
    """Model and tokenizer as a folder; returns its path."""
    build(name, seed=seed, **changes).save_pretrained(folder)
    tokenizer(encoder=name in ENCODERS, pad=pad, closes=name in ENCODER_DECODERS).save_pretrained(folder)
    return str(folder)


IMAGE_MODELS = ("vit", "dinov2", "convnext", "mobilenet_v1", "resnet", "swin")
SIDE = 32


def save_image_model(kind: str, folder: Path, *, seed: int = 0) -> str:
    """A random image classifier with its processor, of pictures of ``SIDE`` pixels; returns its path."""
    blocks: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "patch_size": 8,
        "initializer_range": 0.2,
    }  # fmt: skip
    values: dict[str, dict[str, Any]] = {
        "vit": blocks | {"intermediate_size": 48},
        "dinov2": blocks | {"mlp_ratio": 2},
        "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "initializer_range": 0.2},
        "mobilenet_v1": {"depth_multiplier": 0.25},
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "swin": {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    }
    config = transformers.AutoConfig.for_model(kind, image_size=SIDE, **values[kind])
    torch.manual_seed(seed)
    made = transformers.AutoModelForImageClassification.from_config(config)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # statistics of random pictures, as a trained model has; else all vanishes on its long way
        made.train()(pixel_values=torch.randn(16, 3, SIDE, SIDE))
    made.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


DUAL_MODELS = ("clip", "siglip")


def save_dual_model(kind: str, folder: Path, *, seed: int = 0) -> str:
    """A random model of a picture tower and a text tower with its processor; returns its path."""
    tower: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48,
    }  # fmt: skip
    words = tokenizer(encoder=True)
    ids = {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 2}
    text = tower | ids | {"vocab_size": len(words), "max_position_embeddings": 24}
    vision = tower | {"image_size": SIDE, "patch_size": 8}
    more = {"projection_dim": 16, "initializer_factor": 5.0} if kind == "clip" else {}
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, text_config=text, vision_config=vision, **more)
    made = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        made.logit_scale.fill_(1.5)
        for parameter in made.parameters():  # wide, so that vectors differ by what they are of
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)
    made.save_pretrained(folder)
    words.model_max_length = 24
    words.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, do_convert_rgb=True
    ).save_pretrained(folder)
    return str(folder)


VISION_LANGUAGE = ("llava", "idefics3", "gemma3")
# As such models' templates are: it takes parts and no texts.
IN_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_vision_language_model(kind: str, folder: Path, *, seed: int = 0) -> str:
    """A random model that reads pictures of ``SIDE`` pixels and writes, with its processor; returns its path."""
    words = tokenizer(encoder=False)
    mark = "<start_of_image>" if kind == "gemma3" else "<image>"
    added = [mark, *{"gemma3": ["<image_soft_token>", "<end_of_image>"], "idefics3": [
        "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    ]}.get(kind, [])]  # fmt: skip
    words.add_special_tokens({"additional_special_tokens": added}, replace_extra_special_tokens=False)
    words.chat_template = IN_PARTS.replace("IMAGE", mark)
    ids = {token: words.convert_tokens_to_ids(token) for token in added}
    tower: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
                             "intermediate_size": 48, "image_size": SIDE, "patch_size": 8}  # fmt: skip
    text = config("gemma3" if kind == "gemma3" else "llama", vocab_size=len(words))
    side = {"height": SIDE, "width": SIDE}
    t = transformers
    if kind == "llava":
        made: Any = t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**tower), text_config=text, image_token_id=ids[mark],
            vision_feature_layer=-1,
        )  # fmt: skip
        reader: Any = t.LlavaProcessor(
            t.CLIPImageProcessor(size=side, do_center_crop=False), words, patch_size=8,
            vision_feature_select_strategy="default", num_additional_image_tokens=1,
        )  # fmt: skip
    elif kind == "idefics3":
        made = t.Idefics3Config(vision_config=tower, text_config=text, scale_factor=2, image_token_id=ids[mark])
        shrunk = t.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": SIDE})
        reader = t.Idefics3Processor(shrunk, words, image_seq_len=4)
    else:
        named = {"boi_token": mark, "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
        words = t.PreTrainedTokenizerFast(
            tokenizer_object=words.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            extra_special_tokens=named, chat_template=words.chat_template, model_max_length=128,
        )  # fmt: skip
        made = t.Gemma3Config(
            vision_config=t.SiglipVisionConfig(**tower), text_config=text, mm_tokens_per_image=4,
            image_token_index=ids["<image_soft_token>"], boi_token_index=ids[mark],
            eoi_token_index=ids["<end_of_image>"],
        )  # fmt: skip
        reader = t.Gemma3Processor(t.Gemma3ImageProcessor(size=side), words, image_seq_length=4)
    torch.manual_seed(seed)
    model = t.AutoModelForImageTextToText.from_config(made)
    with torch.no_grad():  # wide, so that hidden states differ by what is seen
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return str(folder)


SOUND_MODELS = ("wav2vec2", "wav2vec2-group", "hubert", "wavlm", "wav2vec2-bert", "parakeet", "ast", "whisper")
RATE = 16000


def save_sound_model(kind: str, folder: Path, *, seed: int = 0, **changes: Any) -> str:
    """A random model that hears, with its feature extractor and no letters; returns its path.

    Those with ``-group`` normalise over the whole of a sound, so that zeros behind it change what they hear.
    """
    blocks: dict[str, Any] = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48,
        "initializer_range": 0.2,
    }  # fmt: skip
    bare = blocks | {
        "conv_dim": [16] * 3, "conv_kernel": [10, 8, 8], "conv_stride": [5, 8, 8], "num_feat_extract_layers": 3,
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer",
        "hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "activation_dropout": 0.0,
        "final_dropout": 0.0, "classifier_proj_size": 16, "do_stable_layer_norm": True, "mask_time_prob": 0.05,
    }  # fmt: skip
    bert = blocks | {"vocab_size": 32, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    bert |= {"final_dropout": 0.0, "classifier_proj_size": 16, "feat_proj_dropout": 0.0, "conformer_conv_dropout": 0.0}
    fast = {**blocks, "subsampling_factor": 4, "subsampling_conv_channels": 8, "dropout": 0.0, "attention_dropout": 0.0}
    whisper = {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": 2,
               "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 80,
               "max_source_positions": 50, "max_target_positions": 64, "init_std": 0.2, "vocab_size": 400,
               "pad_token_id": 256, "bos_token_id": 256, "eos_token_id": 256, "decoder_start_token_id": 257,
               "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip
    bare_ears = lambda: transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)  # noqa: E731
    kinds: dict[str, tuple[str, dict[str, Any], Any]] = {
        "wav2vec2": ("wav2vec2", bare, bare_ears),
        "wav2vec2-group": ("wav2vec2", bare | {"feat_extract_norm": "group"}, bare_ears),
        "hubert": ("hubert", bare, bare_ears),
        "wavlm": ("wavlm", bare, bare_ears),
        "wav2vec2-bert": ("wav2vec2-bert", bert, transformers.SeamlessM4TFeatureExtractor),
        "parakeet": ("parakeet_ctc", {"encoder_config": fast}, transformers.ParakeetFeatureExtractor),
        "ast": ("audio-spectrogram-transformer", blocks | {"max_length": 128, "num_mel_bins": 32, "patch_size": 8,
                "frequency_stride": 8, "time_stride": 8, "hidden_dropout_prob": 0.0},
                lambda: transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128)),
        "whisper": ("whisper", whisper, lambda: transformers.WhisperFeatureExtractor(chunk_length=1)),
    }  # fmt: skip
    name, values, extractor = kinds[kind]
    config = transformers.AutoConfig.for_model(name, **{**values, **changes})
    auto = {
        "ast": transformers.AutoModelForAudioClassification, "whisper": transformers.AutoModelForSpeechSeq2Seq,
    }.get(kind, transformers.AutoModelForCTC)  # fmt: skip
    torch.manual_seed(seed)
    auto.from_config(config).save_pretrained(folder)
    extractor().save_pretrained(folder)
    if kind == "whisper":
        whisper_tokenizer().save_pretrained(folder)
    return str(folder)


def save_tone(path: Path, pitches: Sequence[float], *, rate: int = RATE, seconds: float = 0.2, seed: int = 0) -> Path:
    """A tone for each pitch (Hz), one after the other, parted by short pauses, on quiet noise."""
    import numpy as np
    import soundfile

    draw, parts = np.random.default_rng(seed), []
    time = np.arange(int(seconds * rate)) / rate
    for pitch in pitches:
        parts += [0.3 * np.sin(2 * np.pi * pitch * time + draw.uniform(0, 6)), np.zeros(int(0.05 * rate))]
    samples = np.concatenate([np.zeros(int(0.05 * rate)), *parts])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples + draw.normal(0, 0.01, len(samples)), rate)
    return path


def save_picture(path: Path, colour: str, *, size: int = 40, seed: int = 0) -> Path:
    """A patch of a colour somewhere on grey noise."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(seed)
    pixels = draw.integers(90, 160, (size, size, 3), dtype=np.uint8)
    left, top = draw.integers(0, size - 16, 2)
    colours = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
    pixels[top : top + 16, left : left + 16] = colours[colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def whisper_tokenizer() -> Any:
    """Whisper's own, of single bytes, with its special tokens in their order."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
    marks += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    made = transformers.WhisperTokenizer(vocab={letter: at for at, letter in enumerate(letters)}, merges=[])
    made.add_tokens(marks, special_tokens=True)
    made.add_special_tokens(dict.fromkeys(("eos_token", "bos_token", "unk_token", "pad_token"), "<|endoftext|>"))
    return made
