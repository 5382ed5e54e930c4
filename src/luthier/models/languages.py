"""Tokenizers that mark languages: which codes they have, and where a text in the target's language begins.

They are known by what they offer, ``src_lang`` and ``tgt_lang``. The code stands first in a target (NLLB, M2M-100,
mBART-50: the decoder is made to begin with it) or last (mBART: it is what the decoder starts from).
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from luthier.models.backbone import Backbone
from luthier.types import Finding, Refused

CODE = re.compile(r"[a-z]{2,3}_[A-Za-z]{2,4}")


def speak(backbone: Backbone, source: str | None, target: str | None) -> None:
    """Set both languages where the tokenizer knows of any, and what an answer begins with.

    Raises Refused (``task.language``) where they are needed and not given, or not known: the nearest is named.
    """
    tokenizer: Any = backbone.tokenizer
    if not hasattr(tokenizer, "src_lang") or not hasattr(tokenizer, "tgt_lang"):
        return
    known = codes(tokenizer)
    if not known:
        return
    found = {key: _code(given, known) for key, given in (("source", source), ("target", target))}
    missing = [key for key, code in found.items() if code is None]
    if missing:
        raise Refused(*(_unknown(key, {"source": source, "target": target}[key], known) for key in missing))
    tokenizer.src_lang, tokenizer.tgt_lang = found["source"], found["target"]
    empty = tokenizer(text_target="")["input_ids"]
    code = next(token for token in empty if token != tokenizer.eos_token_id)
    settings: Any = backbone.model.generation_config
    if empty[0] == code:
        settings.forced_bos_token_id = code
    else:
        settings.decoder_start_token_id = code
        backbone.model.config.decoder_start_token_id = code


def codes(tokenizer: Any) -> list[str]:
    """The languages that a tokenizer has codes for, as they are given to ``src_lang``."""
    of_ids = getattr(tokenizer, "lang_code_to_id", None)
    if of_ids:
        return sorted(of_ids)
    return sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if CODE.fullmatch(str(token))})


def _code(given: str | None, known: list[str]) -> str | None:
    """ "de" is "de_DE" where no other code begins so."""
    if given is None or given in known:
        return given
    begun = [code for code in known if code.startswith(f"{given}_")]
    return begun[0] if len(begun) == 1 else None


def _unknown(key: str, given: str | None, known: list[str]) -> Finding:
    what = f"the tokenizer marks languages, and `translate.{key}` "
    what += "is not given" if given is None else f"{given!r} is none of its {len(known)}"
    begun = [code for code in known if code.startswith(given or "-")]
    near = (begun or difflib.get_close_matches(given or "", known, n=3, cutoff=0.4) or known)[:8]
    mend = (
        f"give one of {', '.join(near)}, in `translate.{key}` or as `translate.codes: {{{given or 'en'}: {near[0]}}}`"
    )
    return Finding("task.language", f"translate.{key}", what, mend)
