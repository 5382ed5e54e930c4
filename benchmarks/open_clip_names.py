"""transformers' CLIP weights under open_clip's names, so that both begin with the same."""

from __future__ import annotations

import torch


def renamed(theirs: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The state of open_clip's model, from that of transformers'."""
    made = {
        "logit_scale": theirs["logit_scale"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
        "visual.proj": theirs["visual_projection.weight"].T,
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
    }
    norms = {
        "ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }  # fmt: skip
    for side, tower in (("", "text_model"), ("visual.", "vision_model")):
        for layer in range(layers):
            ours, from_ = f"{side}transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
            norms |= {f"{ours}.ln_{n}": f"{from_}.layer_norm{n}" for n in (1, 2)}
            norms |= {f"{ours}.mlp.c_fc": f"{from_}.mlp.fc1", f"{ours}.mlp.c_proj": f"{from_}.mlp.fc2"}
            norms[f"{ours}.attn.out_proj"] = f"{from_}.self_attn.out_proj"
            for kind in ("weight", "bias"):
                made[f"{ours}.attn.in_proj_{kind}"] = torch.cat(
                    [theirs[f"{from_}.self_attn.{one}_proj.{kind}"] for one in "qkv"]
                )
    made |= {f"{a}.{kind}": theirs[f"{b}.{kind}"] for a, b in norms.items() for kind in ("weight", "bias")}
    return made
