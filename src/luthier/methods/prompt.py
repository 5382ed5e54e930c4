"""Soft prompts: P trained embeddings before each row's tokens (prompt tuning, and P-tuning with `encoder`).

Prompt tuning (Lester et al. 2021, arXiv 2104.08691): [P; X] in place of X, with P alone trained. P-tuning (Liu et al.
2021, arXiv 2103.10385, section 3.2): P comes out of an MLP or a bidirectional LSTM over trained inputs; what is saved
is P, and the encoder is not needed again. Departures: `random` draws with the spread of the model's own embeddings
(the papers' ranges suit T5's); a classifier reads the row's own first token, never a virtual one. Of a model of
pictures alone they stand among the patches (``models/inserted.py``), and begin with the spread of a picture's.

Axes: P virtual tokens, D width of the embeddings, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from luthier.methods.common import (
    PREFIX,
    MethodOptions,
    by_file_name,
    head_modules,
    new_head,
    read_adapter,
    require_room,
    restore,
    save_adapter,
)
from luthier.models.backbone import Backbone
from luthier.models.inserted import insert, states_before_blocks
from luthier.models.vision.images import ImageBackbone
from luthier.types import Adaptation, Finding, Refused

DEFAULTS = {"learning_rate": 3e-2}
ENCODED = {"mlp": 1e-3, "lstm": 3e-3}  # an encoder moves all embeddings at once, and needs a lower rate
TENSOR, OURS = "prompt_embeddings", "LUTHIER_PROMPT"
THEIR_PREFIX = "base_model."  # PEFT does not inject a prompt, so that there is one module fewer around the model


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "embedding"
    nonlinear: ClassVar[str] = "virtual tokens stand beside the text: they are no weights"
    num_virtual_tokens: int = Field(20, gt=0, description="trained embeddings before every row")
    init: Literal["random", "vocabulary", "text"] | None = Field(
        None,
        description="where they begin: drawn (of pictures alone), embeddings of random tokens (default), or of `text`",
    )
    text: str | None = Field(None, description="init: text; its tokens, repeated or cut to num_virtual_tokens")
    encoder: Literal["none", "mlp", "lstm"] = Field("none", description="P-tuning: what the embeddings come out of")
    hidden: int | None = Field(None, gt=0, description="width inside the encoder; default: the model's")

    def defaults(self) -> dict[str, Any]:
        return {"learning_rate": ENCODED[self.encoder]} if self.encoder in ENCODED else {}

    def positions(self, backbone: Backbone) -> int:
        return self.num_virtual_tokens


class SoftPrompt(nn.Module):
    """(P, D): the trained embeddings, or what the encoder makes of them."""

    def __init__(self, embedding_PD: Tensor, encoder: str = "none", hidden: int = 0):
        super().__init__()
        width = embedding_PD.shape[1]
        self.embedding = nn.Parameter(embedding_PD)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True) if encoder == "lstm" else None
        self.mlp: nn.Module | None = None
        if encoder == "mlp":
            inner = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
            self.mlp = nn.Sequential(*inner, nn.Linear(hidden, width))
        elif encoder == "lstm":
            self.mlp = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, width))

    def forward(self) -> Tensor:
        prompt_PD = self.embedding if self.lstm is None else self.lstm(self.embedding)[0]
        return prompt_PD if self.mlp is None else self.mlp(prompt_PD)


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    if _in_tower(backbone):
        return _among_others(backbone, options)
    if not backbone.reads_text or backbone.needs == "vectors":
        what = "this model hears, and has no embeddings of tokens that virtual ones could stand before"
        if backbone.reads_text:
            what = "this model reads pictures and texts apart, and virtual tokens stand in one of its towers"
            mend = "name it: `method: {text: prompt, vision: frozen}`, or `{vision: prompt, text: frozen}`"
            raise Refused(Finding("method.no-target", "method", what, mend))
        raise Refused(Finding("method.no-target", "method", what, "use `lora`, or `adapter` where it has attention"))
    if backbone.prompt_problem:
        raise Refused(Finding("method.no-target", "method", backbone.prompt_problem, "use `prefix`, or `lora`"))
    if backbone.seams.embedding is None:
        what = f"`{backbone.role}` has no embeddings of tokens that virtual ones could stand before"
        raise Refused(Finding("method.no-target", "method", what, "use `lora`, or `adapter` where it has attention"))
    _agree(options)
    require_room(backbone, options.positions(backbone), "prompt.num_virtual_tokens")
    encoded = options.encoder != "none"
    embedding_PD = _random_inputs(backbone, options) if encoded else _initial(backbone, options)
    hidden = options.hidden or embedding_PD.shape[1]
    prompt = SoftPrompt(embedding_PD, options.encoder, hidden).to(backbone.device)
    added = _lay(backbone, prompt)
    head = new_head(backbone)

    def save(folder: Path) -> None:
        with torch.no_grad():
            embeddings_PD = prompt()
        config = _config(backbone, options, embeddings_PD, hidden)
        if config["peft_type"] == OURS or not head:
            return save_adapter(folder, backbone, config, {TENSOR: embeddings_PD}, head)
        config |= {"modules_to_save": head_modules(backbone, head)}
        tensors = {f"{THEIR_PREFIX}{name}": parameter.detach() for name, parameter in head.items()}
        save_adapter(folder, backbone, config, {TENSOR: embeddings_PD} | tensors, {})

    return Adaptation("prompt", added | head, save, base=backbone.without_prompt)


def _in_tower(backbone: Backbone) -> bool:
    """Whether virtual tokens stand in the blocks of a tower: of pictures, or of a model that compares two."""
    sees = backbone.role == "vision" and backbone.pictures is not None
    return isinstance(backbone, ImageBackbone) or sees or (backbone.needs == "vectors" and backbone.role == "text")


def _among_others(backbone: Backbone, options: Options) -> Adaptation:
    """Those of a tower's blocks: patches, or the tokens of a text that is compared."""
    _agree(options)
    if options.init in ("vocabulary", "text"):
        what = f"`init: {options.init}` begins at embeddings of tokens, and these stand in the blocks of a tower"
        raise Refused(Finding("recipe.combination", "prompt.init", what, "use `init: random`"))
    states_LD = states_before_blocks(backbone).float()
    count, width = options.num_virtual_tokens, states_LD.shape[1]
    spread = 1.0 if options.encoder != "none" else states_LD.std()
    embedding_PD = torch.randn(count, width).to(backbone.device) * spread
    prompt = SoftPrompt(embedding_PD, options.encoder, options.hidden or width).to(backbone.device)
    added, head = _lay(backbone, prompt), new_head(backbone)

    def save(folder: Path) -> None:
        with torch.no_grad():
            embeddings_PD = prompt()
        config = {"peft_type": OURS, "num_virtual_tokens": count, "token_dim": width}
        save_adapter(folder, backbone, config, {TENSOR: embeddings_PD}, head)

    return Adaptation("prompt", added | head, save, base=backbone.without_prompt)


def attach(backbone: Backbone, folder: Path) -> None:
    """Put a saved soft prompt before the rows of its base model."""
    config, tensors = read_adapter(folder)
    embeddings_PD = tensors.pop(TENSOR, torch.empty(0))
    inside = _in_tower(backbone)
    width = states_before_blocks(backbone).shape[1] if inside else backbone.embedding.embedding_dim
    if embeddings_PD.shape[1:] != (width,):
        what = f"`{TENSOR}` has the shape {tuple(embeddings_PD.shape)}, and this model's embeddings are {width} wide"
        raise Refused(Finding("adapter.mismatch", str(folder), what, "use the base model that it was trained on"))
    if config.get("peft_type") != OURS:
        tensors = {PREFIX + name.removeprefix(THEIR_PREFIX): tensor for name, tensor in tensors.items()}
    restore(by_file_name(new_head(backbone)), tensors)
    _lay(backbone, SoftPrompt(embeddings_PD.float().to(backbone.device)))


def _lay(backbone: Backbone, prompt: SoftPrompt) -> dict[str, nn.Parameter]:
    """Inside the trunk, whose hidden states it changes. Returns its parameters by name."""
    known = {id(parameter) for parameter in backbone.model.parameters()}
    within: nn.Module = backbone.trunk
    if _in_tower(backbone):
        insert(backbone, prompt)
        within = backbone.model.get_submodule(backbone.roles[backbone.role].names[0]) if backbone.role else within
    else:
        backbone.soft_prompt, backbone.prompt_length = prompt, len(prompt.embedding)
    within.add_module("soft_prompt", prompt)
    return {name: p for name, p in backbone.model.named_parameters() if id(p) not in known}


def _agree(options: Options) -> None:
    """Raises Refused for settings that need each other."""
    findings, where = [], "recipe.combination"
    if options.init == "text" and not (options.text or "").strip():
        what, mend = "`init: text` has no text to begin from", "give `text: ...`, or `init: vocabulary`"
        findings.append(Finding(where, "prompt.text", what, mend))
    if options.text is not None and options.init != "text":
        findings.append(Finding(where, "prompt.text", "`text` is read with `init: text` alone", "add `init: text`"))
    if options.encoder != "none" and options.init is not None:
        what = f"with `encoder: {options.encoder}` the embeddings come out of the encoder: `init` has no effect"
        findings.append(Finding(where, "prompt.init", what, "remove `init`, or use `encoder: none`"))
    if options.encoder == "none" and options.hidden is not None:
        what, mend = "without an encoder `hidden` has no effect", "remove `hidden`, or give `encoder: mlp` or `lstm`"
        findings.append(Finding(where, "prompt.hidden", what, mend))
    if findings:
        raise Refused(*findings)


@torch.no_grad()
def _initial(backbone: Backbone, options: Options) -> Tensor:
    """(P, D), as the model's own embedding layer gives them, with its scaling where it has one."""
    count, vocabulary = options.num_virtual_tokens, len(backbone.embedding.weight)
    if options.init == "text":
        ids = backbone.tokenizer(options.text, add_special_tokens=False)["input_ids"]
        ids = [ids[at % len(ids)] for at in range(count)]
        return backbone.embedding(torch.tensor(ids, device=backbone.device)).float().clone()
    ids = torch.randint(vocabulary, (max(count, 512),)).to(backbone.device)
    sample_ND = backbone.embedding(ids).float()
    if options.init == "random":
        return torch.randn(count, sample_ND.shape[1]).to(sample_ND) * sample_ND.std()
    return sample_ND[:count].clone()


def _random_inputs(backbone: Backbone, options: Options) -> Tensor:
    return torch.randn(options.num_virtual_tokens, backbone.embedding.embedding_dim)


def _config(backbone: Backbone, options: Options, embeddings_PD: Tensor, hidden: int) -> dict[str, Any]:
    """PEFT's fields; its own type only where it gives the same logits."""
    text, blocks = backbone.model.config.get_text_config(), len(backbone.seams.blocks)
    shared = {
        "num_virtual_tokens": len(embeddings_PD), "token_dim": embeddings_PD.shape[1], "num_layers": blocks,
        "num_transformer_submodules": 1, "num_attention_heads": text.num_attention_heads,
    }  # fmt: skip
    if not _peft_agrees(backbone):
        return {"peft_type": OURS} | shared
    if options.encoder == "none":
        return {"peft_type": "PROMPT_TUNING"} | shared | {"prompt_tuning_init": "RANDOM"}
    kind = {"encoder_reparameterization_type": options.encoder.upper(), "encoder_hidden_size": hidden}
    return {"peft_type": "P_TUNING"} | shared | kind


def _peft_agrees(backbone: Backbone) -> bool:
    """PEFT's classifier reads the first virtual token where a head reads the first token, and counts all for a mean."""
    if backbone.model.config.is_encoder_decoder or backbone.needs == "hidden":
        return False
    return backbone.needs == "token_logits" or backbone.reads == "last"
