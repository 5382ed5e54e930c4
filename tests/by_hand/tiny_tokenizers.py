"""Tokenizers built on the spot, and what a token stands for, byte by byte, without asking its offsets."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = ("<|im_start|>", "<|im_end|>")
LINES = [
    "hello world, hello there", "User: what is a cat?\nAssistant: a small animal", "### Response:\n\nthe answer is 42",
    "naïve café ❤ 🎉 日本", "system user assistant tool", "yes  no\n\nmaybe, so be it",
]  # fmt: skip


def byte_level(merges: int = 150, *, trim: bool = False, bos: bool = False, pad: str | None = None) -> Any:
    """A byte-level BPE (GPT-2's kind). ``merges`` 0: one token a byte. ``bos``: its post-processor adds ``<s>``."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *CHATML]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(special) + len(alphabet) + merges
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )  # fmt: skip
    backend.train_from_iterator(LINES * 5, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    return _wrapped(backend, bos, pad)


def metaspace(merges: int = 150, *, bos: bool = False, pad: str | None = None) -> Any:
    """A SentencePiece-like BPE: spaces are ▁, unknown characters fall back to bytes."""
    special = ["<unk>", "<s>", "</s>", "<pad>", *CHATML]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=len(pieces) + 60 + merges, special_tokens=pieces, show_progress=False)
    backend.train_from_iterator([line.replace("日本", "") for line in LINES] * 5, trainer)
    # The byte pieces are vocabulary, not tokens to look for in a text, so the tokens are declared anew.
    learnt = models.BPE(
        vocab=backend.get_vocab(), merges=_merges(backend), unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    fresh = Tokenizer(learnt)
    fresh.pre_tokenizer, fresh.decoder = backend.pre_tokenizer, backend.decoder
    fresh.add_special_tokens(special)
    return _wrapped(fresh, bos, pad)


def _merges(backend: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def wordpiece() -> Any:
    """BERT's kind: white space is dropped, words are split into pieces with ##."""
    words = ["user", "assistant", ":", "hel", "##lo", "wor", "##ld", "hi", "[UNK]", "</s>"]
    backend = Tokenizer(models.WordPiece(vocab={word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>")


def _wrapped(backend: Tokenizer, bos: bool, pad: str | None) -> Any:
    if bos:
        adds = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
        backend.post_processor = adds
    named = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": pad} if pad else {})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHATML)})
    return tokenizer


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for the letters from 256 on, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_of_letter()


def token_bytes(tokenizer: Any, index: int) -> bytes:
    """The bytes that a token of ``byte_level`` or ``metaspace`` writes."""
    token = tokenizer.convert_ids_to_tokens(index)
    if index in tokenizer.added_tokens_decoder:
        return token.encode()
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        return bytes(BYTE_OF_LETTER[letter] for letter in token)
    return bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("▁", " ").encode()
