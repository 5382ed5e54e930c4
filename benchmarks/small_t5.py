"""Small models with random weights and a tokenizer of words made for them: what they know they learn from the rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def small_t5(
    folder: Path, words: Iterable[str], seed: int, *, longest: int, feed_forward: int, dropout: float, signs: bool
) -> str:
    """A T5 of 2 + 2 layers of width 128, saved with its tokenizer; returns ``folder``.

    A token is one of ``words``, which stand between blanks; all others are unknown. With ``signs`` it reads small
    letters, and a sign that is no letter, digit or underscore is a word. ``longest`` is in tokens.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = of_words(words, longest, signs=signs, ends=True)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=feed_forward, num_layers=2, num_heads=4,
        dropout_rate=dropout, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small_llama(folder: Path, words: Iterable[str], seed: int, *, longest: int) -> str:
    """A decoder of 2 layers of width 128, saved with its tokenizer (with ``signs``, as above); returns ``folder``."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = of_words(words, longest, signs=True, ends=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=longest, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def of_words(words: Iterable[str], longest: int, *, signs: bool, ends: bool) -> Any:
    """The tokenizer; with ``ends`` it puts `</s>` behind every text."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if signs:
        backend.normalizer = normalizers.Lowercase()
        apart = pre_tokenizers.Split(Regex(r"[^\w]"), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), apart])
    if ends:
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=longest
    )
