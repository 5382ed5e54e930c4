"""Low-rank adaptation: W + (alpha / rank) · B A, with A and B trained (Hu et al. 2021, arXiv 2106.09685, section 4.1).

PEFT injects the layers. Variants: rsLoRA (arXiv 2312.03732), DoRA (arXiv 2402.09353), PiSSA (arXiv 2404.02948), AdaLoRA
(arXiv 2303.10512), VeRA (arXiv 2310.11454), OFT (arXiv 2306.07280), and QLoRA (arXiv 2305.14314) where bitsandbytes and
a GPU are present. Targets are roles (`all`, `attention`, `query`, ...), layer names or a regular expression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from peft import AdaLoraConfig, LoraConfig, OFTConfig, PeftConfig, VeraConfig
from peft.tuners import adalora
from peft.tuners.vera import VeraLayer
from pydantic import Field
from torch import Tensor

from luthier.methods.common import PREFIX, MethodOptions, new_head, save_adapter
from luthier.methods.injected import adaptation, conv1d, fold, inject, merge, named, settings
from luthier.methods.injected import attach as attach_injected
from luthier.methods.rank_budget import RankBudget, Schedule, adaptive_layers, shrink
from luthier.models.backbone import Backbone
from luthier.models.seams import is_convolution
from luthier.types import Adaptation, Finding, Refused

__all__ = ["DEFAULTS", "Options", "adapt", "attach", "fold"]

DEFAULTS = {"learning_rate": 5e-4}
CONVOLVE = {"lora", "dora"} | ({"adalora"} if "SVDConv2d" in vars(adalora) else set())
"""Variants that PEFT has for convolutions. It has OFT too, which is another transform once it is merged (0.21.2)."""
BUDGET = ("initial_rank", "tinit", "tfinal", "deltaT", "orthogonality")


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "linear"
    rank: int = Field(8, gt=0, description="of the update of each matrix; OFT: width of its blocks")
    alpha: float = Field(16.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the update, while training")
    targets: list[str] = Field(default=["all"], description="roles, layer names or a regular expression")
    variant: Literal["lora", "dora", "pissa", "adalora", "vera", "oft"] = Field(
        "lora",
        description="DoRA: direction and magnitude apart; PiSSA: begins in the largest singular vectors; AdaLoRA: a "
        "budget of ranks goes to the matrices that matter; VeRA: two vectors around shared random matrices; OFT: an "
        "orthogonal turn",
    )
    initial_rank: int | None = Field(
        None,
        gt=0,
        description="AdaLoRA: of each matrix at first, where `rank` is the mean at the end; default: 3/2 rank",
    )
    tinit: float | None = Field(
        None, ge=0, description="AdaLoRA: steps before the ranks begin to fall, or a share below 1; default: 0.1"
    )
    tfinal: float | None = Field(
        None, ge=0, description="AdaLoRA: steps at the end with the ranks settled, or a share below 1; default: 0.5"
    )
    deltaT: int | None = Field(None, gt=0, description="AdaLoRA: steps between two allocations; default: 1")
    orthogonality: float | None = Field(
        None, ge=0, description="AdaLoRA: weight of the distance of A Aᵀ and Bᵀ B from the identity; default: 0.5"
    )
    rslora: bool = Field(False, description="scaled by alpha / √rank instead")
    quantize: Literal["nf4"] | None = Field(
        None, description="QLoRA: frozen weights in 4 bits (needs bitsandbytes and a GPU)"
    )

    def defaults(self) -> dict[str, Any]:
        """VeRA's two vectors want about ten times LoRA's rate (its paper's appendix A); AdaLoRA is within its budget
        only at the end, so that the last weights are meant and not the best before."""
        chosen: dict[str, dict[str, Any]] = {
            "vera": {"learning_rate": 5e-3},
            "adalora": {"learning_rate": 2e-3, "final": "last"},
        }
        return chosen.get(self.variant, {})

    def load_kwargs(self) -> dict[str, Any]:
        if self.quantize is None:
            return {}
        if self.variant == "adalora":
            what = "AdaLoRA on weights in 4 bits is not there"
            mend = "use `method: qlora`, or remove `lora.quantize`"
            raise Refused(Finding("recipe.combination", "lora.quantize", what, mend, "no test has compared its merge"))
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
    _check(options)
    targets = [linear.name for linear in backbone.seams.linears_by_role(options.targets)]
    convolutions = [name for name in targets if is_convolution(backbone.model.get_submodule(name))]
    if convolutions and options.variant not in CONVOLVE:
        what = f"`{options.variant}` is made for linear layers, and {convolutions[0]} is a convolution"
        raise Refused(Finding("method.unsupported", "lora.variant", what, "use `lora`, which works here"))
    config = _config(options, targets, conv1d(backbone, targets))
    added = inject(backbone, config)
    made = adaptation("lora", backbone, config, added)
    if options.variant == "pissa":
        return _pissa(backbone, config, added, made)
    if options.variant == "adalora":
        return _adalora(backbone, config, options, made)
    return _vera(backbone, config, added, made) if options.variant == "vera" else made


def _check(options: Options) -> None:
    """Raises Refused for AdaLoRA's options elsewhere, and for a budget or a schedule in which no rank could fall."""
    given = [key for key in BUDGET if vars(options)[key] is not None]
    if options.variant != "adalora":
        mend = "remove it, or use `method: adalora`"
        what = f"nothing reads it with `variant: {options.variant}`"
        findings = [Finding("recipe.combination", f"lora.{key}", what, mend) for key in given]
    else:
        findings = _budget_findings(options, _schedule(options))
    if findings:
        raise Refused(*findings)


def _budget_findings(options: Options, schedule: Schedule) -> list[Finding]:
    found, initial = [], _initial_rank(options)
    if options.rslora:
        what = "AdaLoRA scales by alpha / initial rank, and has no square root of it"
        found.append(Finding("recipe.combination", "lora.rslora", what, "remove `rslora`"))
    if initial <= options.rank:
        what = f"the ranks begin at {initial} and are to end at a mean of {options.rank}: none would fall"
        mend = f"give more than {options.rank}, or use `method: lora`"
        found.append(Finding("recipe.value", "lora.initial_rank", what, mend))
    if schedule.initial >= schedule.settled:
        told = f"{schedule.initial} before the ranks fall (tinit) and {schedule.final} after (tfinal)"
        what = f"{schedule.steps} steps leave none in which the ranks fall: {told}"
        mend = "train longer, or give a smaller tinit or tfinal"
        found.append(Finding("method.too-few-steps", "lora.tinit", what, mend, "the model would stay over its budget"))
    return found


def _config(options: Options, targets: list[str], fan_in_fan_out: bool) -> PeftConfig:
    shared: dict[str, Any] = {"target_modules": targets, "fan_in_fan_out": fan_in_fan_out}
    if options.variant == "vera":
        return VeraConfig(r=options.rank, vera_dropout=options.dropout, save_projection=True, **shared)
    if options.variant == "oft":
        return OFTConfig(r=0, oft_block_size=options.rank, module_dropout=options.dropout, **shared)
    if options.variant == "adalora":
        schedule = _schedule(options)
        return AdaLoraConfig(
            init_r=_initial_rank(options),
            target_r=options.rank,
            tinit=schedule.initial,
            tfinal=schedule.final,
            deltaT=schedule.every,
            total_step=schedule.steps,
            orth_reg_weight=0.5 if options.orthogonality is None else options.orthogonality,
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            **shared,
        )
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        use_dora=options.variant == "dora",
        init_lora_weights="pissa" if options.variant == "pissa" else True,
        **shared,
    )


def fresh_config(backbone: Backbone, options: Options) -> LoraConfig:
    """PEFT's settings of a new adapter with these options."""
    targets = [linear.name for linear in backbone.seams.linears_by_role(options.targets)]
    config = _config(options, targets, conv1d(backbone, targets))
    assert isinstance(config, LoraConfig)
    return config


def attach(backbone: Backbone, folder: Path) -> None:
    """Put a saved adapter on its base model, in place. Raises Refused where it does not fit."""
    attach_injected(backbone, folder, resize=shrink, extra=lambda: _projections(backbone))


def _adalora(backbone: Backbone, config: PeftConfig, options: Options, made: Adaptation) -> Adaptation:
    """The budget is told the steps; what is saved has only the triplets that stayed."""
    assert isinstance(config, AdaLoraConfig)
    budget = RankBudget(adaptive_layers(backbone), config, _schedule(options))

    def save(folder: Path) -> None:
        pattern, tensors = budget.saved()
        told = settings(config) | {"rank_pattern": pattern}
        save_adapter(folder, backbone, told, {f"{PREFIX}{n}": t for n, t in tensors.items()}, new_head(backbone))

    return replace(
        made, save=save, penalty=budget.penalty if config.orth_reg_weight else None, after_step=budget.after_step,
        state=budget.state, told=lambda: {"ranks": budget.ranks()},
    )  # fmt: skip


def _initial_rank(options: Options) -> int:
    """One and a half times the rank at the end, as in the paper (section 4)."""
    return options.initial_rank or (3 * options.rank + 1) // 2


def _schedule(options: Options) -> Schedule:
    def counted(given: float) -> int:
        return int(given * options.steps) if given < 1 else int(given)

    initial = counted(0.1 if options.tinit is None else options.tinit)
    final = counted(0.5 if options.tfinal is None else options.tfinal)
    return Schedule(options.steps, initial, final, options.deltaT or 1)


def _vera(backbone: Backbone, config: PeftConfig, added: dict[str, Any], made: Adaptation) -> Adaptation:
    """The matrices that all layers share are saved too: another version of torch might draw others from their key."""

    def save(folder: Path) -> None:
        save_adapter(folder, backbone, settings(config), named(added) | _projections(backbone), new_head(backbone))

    return replace(made, save=save)


def _projections(backbone: Backbone) -> dict[str, Tensor]:
    """VeRA's shared matrices under the names of PEFT's files; none for other variants."""
    layers = (module for _, module in backbone.named_modules() if isinstance(module, VeraLayer))
    first = next(layers, None)
    if first is None:
        return {}
    shared = {"base_model.vera_A": first.vera_A, "base_model.vera_B": first.vera_B}
    return {name: held["default"] for name, held in shared.items() if held is not None}


def _pissa(backbone: Backbone, config: PeftConfig, added: dict[str, Any], made: Adaptation) -> Adaptation:
    """PiSSA moves a part of the weights into the adapter, so switching it off does not give the base back."""
    initial = {name: p.detach().clone() for name, p in named(added).items()}

    def save(folder: Path) -> None:
        tensors, wide = _pissa_as_lora(named(added), initial, settings(config))
        save_adapter(folder, backbone, wide, tensors, new_head(backbone))

    return Adaptation("lora", made.parameters, save, merge=lambda: merge(backbone))


def _pissa_as_lora(
    tensors: Mapping[str, Tensor], initial: dict[str, Tensor], config: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """B A - B₀ A₀ is a LoRA of twice the rank on the original weights: [B, -B₀] [A; A₀]."""
    wide = {}
    for name, start in initial.items():
        is_a = ".lora_A." in name
        wide[name] = torch.cat([tensors[name].detach(), start if is_a else -start], dim=0 if is_a else 1)
    rank = config["r"]
    wide_alpha = scale_of(config) * ((2 * rank) ** 0.5 if config["use_rslora"] else 2 * rank)
    return wide, config | {"r": 2 * rank, "lora_alpha": wide_alpha, "init_lora_weights": True}


def scale_of(config: dict[str, Any]) -> float:
    """What B A is multiplied by, from PEFT's fields: alpha / rank, or alpha / √rank."""
    rank, alpha = config["r"], config["lora_alpha"]
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
