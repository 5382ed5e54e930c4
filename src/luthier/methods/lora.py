"""Low-rank adaptation: W + (alpha / rank) · B A, with A and B trained (Hu et al. 2021, arXiv 2106.09685, section 4.1).

PEFT injects the layers. Variants: rsLoRA (arXiv 2312.03732), DoRA (arXiv 2402.09353), PiSSA (arXiv 2404.02948), and
QLoRA (arXiv 2305.14314) where bitsandbytes and a GPU are present. Targets are roles (`all`, `attention`, `query`, ...),
layer names or a regular expression.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.methods.common import MethodOptions
from luthier.models.backbone import Backbone
from luthier.types import Adaptation, Finding, Refused

DEFAULTS = {"learning_rate": 5e-4}
TASK_TYPES = {"token_logits": "CAUSAL_LM", "sequence_logits": "SEQ_CLS", "hidden": "FEATURE_EXTRACTION"}


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    rank: int = Field(8, gt=0, description="of the update of each matrix")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the update, while training")
    targets: list[str] = Field(default=["all"], description="roles, layer names or a regular expression")
    variant: Literal["lora", "dora", "pissa"] = Field(
        "lora", description="DoRA: direction and magnitude apart; PiSSA: begins in the largest singular vectors"
    )
    rslora: bool = Field(False, description="scaled by alpha / √rank instead")
    quantize: Literal["nf4"] | None = Field(
        None, description="QLoRA: frozen weights in 4 bits (needs bitsandbytes and a GPU)"
    )

    def load_kwargs(self) -> dict[str, Any]:
        if self.quantize is None:
            return {}
        if find_spec("bitsandbytes") is None or not torch.cuda.is_available():
            missing = "bitsandbytes" if find_spec("bitsandbytes") is None else "a CUDA GPU"
            mend = 'remove `lora.quantize`, or install "luthier[qlora]" on a machine with a GPU'
            raise Refused(
                Finding("method.quantize", "lora.quantize", f"4-bit weights need {missing}, not found here", mend)
            )
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        return {"quantization_config": quantization}


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    model = backbone.model
    head = backbone.head_parameters() if backbone.needs == "sequence_logits" else {}
    known = {id(parameter) for parameter in model.parameters()}
    targets = [linear.name for linear in backbone.seams.linears_by_role(options.targets)]
    writes_from_source = backbone.encoder_decoder and backbone.needs == "token_logits"
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=targets,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        use_rslora=options.rslora,
        use_dora=options.variant == "dora",
        init_lora_weights="pissa" if options.variant == "pissa" else True,
        task_type="SEQ_2_SEQ_LM" if writes_from_source else TASK_TYPES[backbone.needs],
        base_model_name_or_path=backbone.path,
    )
    inject_adapter_in_model(config, model)
    added = {name: p for name, p in model.named_parameters() if id(p) not in known}
    initial = {name: p.detach().clone() for name, p in added.items()} if options.variant == "pissa" else {}

    def save(folder: Path) -> None:
        _save(folder, config, added, head, _modules(backbone, head), initial)

    # PiSSA moves a part of the weights into the adapter, so switching it off does not give the base back.
    base = None if initial else lambda: _switched_off(model)
    return Adaptation("lora", added | head, save, base=base, merge=lambda: _merge(model))


def attach(backbone: Backbone, folder: Path) -> None:
    """Put a saved adapter on its base model, in place."""
    PeftModel.from_pretrained(backbone.model, str(folder))


@contextmanager
def _switched_off(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True  # the public switch would touch requires_grad, which is the engine's
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _merge(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)


def _modules(backbone: Backbone, head: dict[str, nn.Parameter]) -> list[str]:
    """The modules that hold ``head``: whole ones outside the trunk (PEFT saves a head whole and can't nest in it)."""
    outside = set(backbone.seams.head)
    return sorted({top if (top := name.partition(".")[0]) in outside else name.rpartition(".")[0] for name in head})


def _save(
    folder: Path,
    config: LoraConfig,
    added: dict[str, nn.Parameter],
    head: dict[str, nn.Parameter],
    modules: list[str],
    initial: dict[str, Tensor],
) -> None:
    """PEFT's layout: adapter_config.json and adapter_model.safetensors, opened by PeftModel.from_pretrained."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name.replace('.default', '')}": p.detach() for name, p in added.items()}
    settings = config.to_dict()
    if initial:
        tensors, settings = _pissa_as_lora(tensors, initial, settings)
    tensors |= {f"base_model.model.{name}": p.detach() for name, p in head.items()}
    if head:
        settings["modules_to_save"] = modules
    settings |= {"inference_mode": True, "target_modules": sorted(config.target_modules or [])}
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, default=_plain), encoding="utf-8")


def _pissa_as_lora(
    tensors: dict[str, Tensor], initial: dict[str, Tensor], settings: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """B A - B₀ A₀ is a LoRA of twice the rank on the original weights: [B, -B₀] [A; A₀]."""
    wide = {}
    for name, start in initial.items():
        key = f"base_model.model.{name.replace('.default', '')}"
        is_a = ".lora_A." in name
        wide[key] = torch.cat([tensors[key], start if is_a else -start], dim=0 if is_a else 1)
    rank, alpha = settings["r"], settings["lora_alpha"]
    scale = alpha / rank**0.5 if settings["use_rslora"] else alpha / rank
    wide_alpha = scale * ((2 * rank) ** 0.5 if settings["use_rslora"] else 2 * rank)
    return wide, settings | {"r": 2 * rank, "lora_alpha": wide_alpha, "init_lora_weights": True}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value.value if isinstance(value, Enum) else str(value)
