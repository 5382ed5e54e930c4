"""Records what AdapterHub's `adapters` gives on tiny random models, as `<model>.npz` beside this file.

That library needs transformers 4.57, so this script has an environment of its own, outside the repository:

    python -m venv ../adapterhub-env
    ../adapterhub-env/bin/pip install torch==2.13.0 adapters==1.3.0
    OMP_NUM_THREADS=1 ../adapterhub-env/bin/python tests/parity/adapterhub/make_fixtures.py

Every weight is random, those that would start at zero or one too, and a multiple of 1/64, so that it is exact in
float32 and is kept as a small integer. `reference.py` reads the files; `README.md` says what the library computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import torch
import transformers
from adapters import AdapterFusionConfig, DoubleSeqBnConfig, Fuse, ParBnConfig, SeqBnConfig, Stack
from adapters.methods.bottleneck import BottleneckLayer
from torch import Tensor, nn

Tensors = dict[str, Tensor]
HERE = Path(__file__).resolve().parent
WIDTH, LAYERS, HEADS, INNER, VOCABULARY, POSITIONS = 16, 2, 2, 24, 40, 16
LENGTHS, DECODER_LENGTHS = (7, 4), (3, 5)  # of the two rows, padded on the right
PAD = {"bert": 0, "distilbert": 0, "llama": 3, "gpt2": 3, "bart": 1, "t5": 0}
PLACES = {"mh_adapter": "attention", "cross_adapter": "cross_attention", "output_adapter": "feed_forward"}
PARTS = {"adapter_down.0": "down", "adapter_up": "up"}
KINDS = {"houlsby": DoubleSeqBnConfig, "pfeiffer": SeqBnConfig, "parallel": ParBnConfig}
# What is varied of each kind's adapters; `parallel` has scaling 4 where nothing is said.
ADAPTERS: dict[str, dict[str, Any]] = {
    "a": {"non_linearity": "relu"},
    "b": {"non_linearity": "relu"},
    "gelu": {"non_linearity": "gelu", "scaling": 2.0},
    "swish": {"non_linearity": "swish", "scaling": 2.0},
}
FUSED = ("a", "b", "gelu")
# Departures from AdapterHub's `dynamic`: (kind, changes). The first of each kind is recorded for every model.
FUSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "pfeiffer_fusion": ("pfeiffer", {}),
    "houlsby_fusion": ("houlsby", {}),
    "parallel_fusion": ("parallel", {}),
    "pfeiffer_fusion_static": ("pfeiffer", {"value": False, "value_initialized": False, "regularization": False}),
    "pfeiffer_fusion_value_after": ("pfeiffer", {"value_before_softmax": False}),
    "pfeiffer_fusion_query_before_ln": ("pfeiffer", {"query_before_ln": True}),
    "pfeiffer_fusion_residual_before": ("pfeiffer", {"residual_before": True}),
    "pfeiffer_fusion_temperature": ("pfeiffer", {"temperature": True}),
}
EVERY_FUSION = ("bert", "llama")


def configs() -> dict[str, dict[str, Any]]:
    """What differs from transformers' defaults; these names are the same in 4.57 and 5."""
    like_bert = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    both = {f"{side}_{what}": value for side in ("encoder", "decoder")
            for what, value in {"layers": LAYERS, "attention_heads": HEADS, "ffn_dim": INNER}.items()}  # fmt: skip
    return {
        "bert": {**like_bert, "hidden_act": "gelu"},
        "distilbert": {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS,
                       "hidden_dim": INNER, "max_position_embeddings": POSITIONS},
        "llama": {**like_bert, "num_key_value_heads": 1, "head_dim": WIDTH // HEADS, "bos_token_id": 1,
                  "eos_token_id": 2},
        "gpt2": {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER,
                 "n_positions": POSITIONS, "bos_token_id": 1, "eos_token_id": 2},
        "bart": {**both, "vocab_size": VOCABULARY, "d_model": WIDTH, "max_position_embeddings": POSITIONS,
                 "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
        "t5": {"vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": INNER,
               "num_layers": LAYERS, "num_decoder_layers": LAYERS, "num_heads": HEADS, "eos_token_id": 1,
               "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
               "decoder_start_token_id": 0},
    }  # fmt: skip


class Draw:
    """Normal numbers, rounded to multiples of 1/64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, like: Tensor, spread: float, mean: float = 0.0) -> Tensor:
        return ((torch.randn(like.shape, generator=self.generator) * spread + mean) * 64).round() / 64

    def ids(self, lengths: tuple[int, ...], pad: int) -> tuple[Tensor, Tensor]:
        """Ids without any special one, padded on the right, and their mask."""
        drawn = torch.randint(4, VOCABULARY, (len(lengths), max(lengths)), generator=self.generator)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        return torch.where(mask.bool(), drawn, pad), mask

    @torch.no_grad()
    def fill(self, module: nn.Module) -> None:
        """Matrices and biases 0.3 wide, embeddings 1, weights of norms about 1."""
        embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        for name, parameter in module.named_parameters():
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            spread = 1.0 if id(parameter) in embeddings else 0.3
            parameter.copy_(self.normal(parameter, spread, 1.0 if is_norm else 0.0))


def bottlenecks(model: nn.Module) -> dict[str, BottleneckLayer]:
    """`block/place` of each place that has adapters; blocks have their names in the plain model."""
    blocks = {id(layer) for _, layer in model.iter_layers()}
    names = [name for name, module in model.named_modules() if id(module) in blocks]
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BottleneckLayer) and len(layer.adapters):
            [block] = [block for block in names if name.startswith(block + ".")]
            found[f"{block}/{PLACES[layer.location_key]}"] = layer
    return found


def add_adapters(model: Any, draw: Draw) -> tuple[dict[str, Any], Tensors]:
    """Adds and fills every adapter: what is said of each, and its tensors."""
    told, tensors = {}, {}
    changes = dict(ADAPTERS)
    if model.config.is_encoder_decoder:
        changes["cross"] = {"non_linearity": "relu", "cross_adapter": True}
    for kind, config_class in KINDS.items():
        for variant, change in changes.items():
            if (kind, variant) in {("pfeiffer", "swish"), ("houlsby", "swish")}:
                continue
            name, config = f"{kind}_{variant}", config_class(reduction_factor=2, **change)
            model.add_adapter(name, config=config)
            told[name] = {"kind": kind, **config.to_dict()}
            for where, layer in bottlenecks(model).items():
                if name in layer.adapters:
                    draw.fill(layer.adapters[name])
                    for part, tensor in layer.adapters[name].state_dict().items():
                        module, leaf = part.rsplit(".", 1)
                        tensors[f"adapter/{name}/{where}/{PARTS[module]}.{leaf}"] = tensor.clone()
    return told, tensors


def add_fusions(model: Any, draw: Draw, names: list[str]) -> tuple[dict[str, Any], Tensors]:
    """As `add_adapters`. All fusions of a kind share one set of tensors, of which `static` has no value."""
    told, tensors = {}, {}
    for name in names:
        kind, changes = FUSIONS[name]
        fused = [f"{kind}_{variant}" for variant in FUSED]
        config = AdapterFusionConfig.load("dynamic", **changes)
        model.add_adapter_fusion(fused, config, name=name)
        told[name] = {"kind": kind, "adapters": fused, **config.to_dict()}
        for where, layer in bottlenecks(model).items():
            if name not in layer.adapter_fusion_layer:
                continue
            for part, tensor in layer.adapter_fusion_layer[name].state_dict().items():
                # Queries and keys are narrower, so that the softmax is not all on one adapter.
                spread = 0.3 if part.startswith("value") else 0.08
                values = tensors.setdefault(f"fusion/{kind}/{where}/{part}", draw.normal(tensor, spread))
                tensor.copy_(values)
    return told, tensors


def settings(kinds: dict[str, Any], fusions: dict[str, Any]) -> dict[str, Any]:
    """(composition, its members) by name: each adapter alone, two of a kind in a stack, and the fusions."""
    alone = {name: ("single", [name]) for name in kinds}
    stacks = {f"{kind}_stack": ("stack", [f"{kind}_a", f"{kind}_b"]) for kind in KINDS}
    return {**alone, **stacks, **{name: ("fuse", told["adapters"]) for name, told in fusions.items()}}


@torch.no_grad()
def run(model: Any, setting: str, inputs: Tensors) -> Tensors:
    """Last hidden states, and how a fusion weighs its adapters."""
    asked = {"output_adapter_fusion_attentions": True} if setting in FUSIONS else {}
    given = model(**inputs, **asked)
    found = {"last_hidden_state": given.last_hidden_state}
    if model.config.is_encoder_decoder:
        found["encoder_last_hidden_state"] = given.encoder_last_hidden_state
    if asked:
        weights = given.adapter_fusion_attentions[setting]
        for where, layer in bottlenecks(model).items():
            if setting in layer.adapter_fusion_layer:
                found[f"fusion_weights/{where}"] = torch.tensor(weights[layer.layer_idx][layer.location_key])
    return {f"output/{setting}/{name}": tensor.clone() for name, tensor in found.items()}


def activate(model: Any, setting: str, composition: str, members: list[str]) -> None:
    made = {
        "single": lambda: members[0],
        "stack": lambda: Stack(*members),
        "fuse": lambda: Fuse(*members, name=setting),
    }
    model.set_active_adapters(made[composition]())


def inputs_of(model: Any, draw: Draw, pad: int) -> Tensors:
    ids, mask = draw.ids(LENGTHS, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        ids, mask = draw.ids(DECODER_LENGTHS, pad)
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return inputs


def record(name: str, values: dict[str, Any]) -> None:
    """One model with all its settings, to `<name>.npz`."""
    values = {**values, "pad_token_id": PAD[name]}
    config = transformers.AutoConfig.for_model(name, **values)
    draw = Draw(seed=len(name))
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    draw.fill(model)
    weights = {f"base/{key}": tensor.clone() for key, tensor in model.state_dict().items()}
    inputs = inputs_of(model, draw, PAD[name])
    plain = run(model, "base", inputs)
    adapters.init(model)
    added, adapter_tensors = add_adapters(model, draw)
    wanted = [fusion for at, fusion in enumerate(FUSIONS) if at < 3 or name in EVERY_FUSION]
    fusions, fusion_tensors = add_fusions(model, draw, wanted)
    model.eval().set_active_adapters(None)
    outputs = run(model, "base", inputs)
    assert all(torch.equal(outputs[key], plain[key]) for key in plain), "inactive adapters must change nothing"
    asked = settings(added, fusions)
    for setting, (composition, members) in asked.items():
        activate(model, setting, composition, members)
        outputs |= run(model, setting, inputs)
    weights |= adapter_tensors | fusion_tensors
    told = {
        "model_type": name, "config": values, "adapters": added, "fusions": fusions,
        "settings": {key: {"composition": how, "adapters": members} for key, (how, members) in asked.items()},
        "made_with": {"adapters": adapters.__version__, "transformers": transformers.__version__,
                      "torch": torch.__version__},
    }  # fmt: skip
    save(HERE / f"{name}.npz", told, inputs, weights, outputs)
    for setting in asked:
        change = outputs[f"output/{setting}/last_hidden_state"] - outputs["output/base/last_hidden_state"]
        print(f"    {setting}: differs from the base by {change.abs().mean():.2f} on average")


def save(path: Path, told: dict[str, Any], inputs: Tensors, weights: Tensors, outputs: Tensors) -> None:
    """Few long arrays in place of thousands of short ones; the shapes, in their order, stand in the JSON."""
    whole = torch.cat([tensor.flatten() for tensor in weights.values()]) * 64
    assert torch.equal(whole, whole.round()), "a weight that was not drawn here"
    shapes = {"weights": weights, "outputs": outputs}
    told["shapes"] = {kind: {name: list(one.shape) for name, one in these.items()} for kind, these in shapes.items()}
    np.savez_compressed(
        path,
        meta=np.array(json.dumps(told)),
        weights=whole.to(torch.int16).numpy(),
        outputs=torch.cat([tensor.flatten() for tensor in outputs.values()]).numpy(),
        **{name: tensor.numpy() for name, tensor in inputs.items()},
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB, {len(told['settings'])} settings")


def main() -> None:
    for name, values in configs().items():
        record(name, values)


if __name__ == "__main__":
    main()
