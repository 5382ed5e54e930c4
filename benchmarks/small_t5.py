"""A small T5 with random weights and a tokenizer of words made for it: what learns all that it knows from the rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def small_t5(
    folder: Path, words: Iterable[str], seed: int, *, longest: int, feed_forward: int, dropout: float, signs: bool
) -> str:
    """A T5 of 2 + 2 layers of width 128, saved with its tokenizer; returns ``folder``.

    A token is one of ``words``, which stand between blanks; all others are unknown. With ``signs`` it reads small
    letters, and a sign that is no letter, digit or underscore is a word. ``longest`` is in tokens.
    """
    import torch
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    vocabulary = {word: at for at, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if signs:
        backend.normalizer = normalizers.Lowercase()
        apart = pre_tokenizers.Split(Regex(r"[^\w]"), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), apart])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=longest
    )
    config = T5Config(
        vocab_size=len(vocabulary), d_model=128, d_kv=32, d_ff=feed_forward, num_layers=2, num_heads=4,
        dropout_rate=dropout, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
