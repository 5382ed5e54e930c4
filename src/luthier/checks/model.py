"""The model and its tokenizer agree, and the weights are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

MOST_UNKNOWN = 0.5


def ids_fit(prepared: Prepared) -> list[Finding]:
    """Every id that occurs in the rows has a row in the embedding table."""
    if not prepared.backbone.reads_text:
        return []
    table = len(prepared.backbone.embedding.weight)
    findings = []
    for row in prepared.train.rows:
        worst = max([*row["input_ids"], *row.get("target_ids", ())], default=0)
        if worst >= table:
            source = prepared.train.examples[row["row"]].source
            token = prepared.backbone.tokenizer.convert_ids_to_tokens(worst)
            what = f"the tokenizer makes id {worst} ({token!r}), the model has {table:,} embeddings"
            findings.append(
                Finding("model.vocabulary", str(source), what, "use the tokenizer that belongs to the model")
            )
    return findings[:20]


def ends_where_read(prepared: Prepared) -> list[Finding]:
    """The classifier of an encoder-decoder looks for the last end-of-text token: each row must close with it."""
    backbone = prepared.backbone
    if not backbone.encoder_decoder or backbone.needs != "sequence_logits":
        return []
    eos = backbone.model.config.eos_token_id
    open_rows = [row["row"] for row in prepared.train.rows if row["input_ids"][-1:] != [eos]]
    if not open_rows:
        return []
    source = prepared.train.examples[open_rows[0]].source
    what = f"{len(open_rows)} of {len(prepared.train.rows)} rows do not end in token {eos}, which the head looks for"
    mend = "use the model's own tokenizer, which closes a text"
    return [Finding("model.open-end", str(source), what, mend, "transformers could not classify them")]


def finite_weights(prepared: Prepared) -> list[Finding]:
    """No weight of the checkpoint is NaN or infinite."""
    bad = [
        name
        for name, parameter in prepared.backbone.model.named_parameters()
        if parameter.is_floating_point() and not torch.isfinite(parameter).all()
    ]
    if not bad:
        return []
    what = f"{len(bad)} weight tensor(s) hold NaN or infinity: {', '.join(bad[:3])}"
    return [Finding("model.not-finite", prepared.backbone.path, what, "take another copy of the weights")]


def weights_belong(prepared: Prepared) -> list[Finding]:
    """The checkpoint holds the embeddings and every block; what it lacks there would be random numbers.

    Where they are meant to be drawn (`model.init: random`), all of them train.
    """
    seams = prepared.backbone.seams
    inside = tuple(f"{name}." for name in (*seams.blocks, seams.embedding) if name)
    lost = sorted(name for name in prepared.backbone.fresh if name.startswith(inside))
    if prepared.resolved.recipe.model.init == "random":
        return _random_but_frozen(prepared, lost)
    if not lost:
        return []
    what = f"the weights lack {len(lost)} tensor(s) of this architecture: {', '.join(lost[:3])}"
    why = "they would be random numbers"
    return [Finding("model.mismatch", prepared.backbone.path, what, "use the weights that belong to this config", why)]


def _random_but_frozen(prepared: Prepared, drawn: list[str]) -> list[Finding]:
    frozen = [name for name in drawn if name not in prepared.adaptation.parameters]
    if not frozen:
        return []
    method = prepared.adaptation.method
    what = (
        f"`{method}` leaves {len(frozen)} of {len(drawn)} randomly drawn tensors as they are: {', '.join(frozen[:3])}"
    )
    return [Finding("model.random-frozen", "model.init", what, "train all of it: `method: full`, or leave `init` out")]


def tokenizer_knows(prepared: Prepared) -> list[Finding]:
    """The tokenizer has words for these rows: a folder without its vocabulary makes each of them unknown."""
    tokenizer = prepared.backbone.tokenizer
    unknown, special = tokenizer.unk_token_id, set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    told = [token for row in prepared.train.rows for token in row["input_ids"] if token not in special]
    share = told.count(unknown) / max(1, len(told))
    if unknown is None or share <= MOST_UNKNOWN:
        return []
    what = f"{share:.0%} of the tokens of the training rows are unknown to the tokenizer ({len(tokenizer):,} tokens)"
    mend = "put the model's own tokenizer files beside it, or choose a model of this language"
    return [Finding("model.tokenizer", prepared.backbone.path, what, mend)]
