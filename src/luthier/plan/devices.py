"""Devices to plan for: the one here, and GPUs by name, with memory, bandwidth and dense peak rates of the data sheets.

Rates are without sparsity, in TFLOP/s: bf16 (fp16 where there is no bf16) with fp32 accumulation on tensor cores, and
plain fp32. Memory is the nominal size in GiB; what the driver, the CUDA context and the allocator keep is taken off it.

Sources, by maker: NVIDIA data sheets "A100 Tensor Core GPU" (40 GB PCIe and 80 GB SXM), "H100 Tensor Core GPU" (SXM),
"H200 Tensor Core GPU", "L4", "L40S", "A10", "T4", "V100" (SXM2), "RTX A6000"; white papers "NVIDIA Ampere GA102 GPU
Architecture" (RTX 3090), "NVIDIA Ada GPU Architecture" (RTX 4090) and "NVIDIA RTX Blackwell GPU Architecture"
(RTX 5090); AMD data sheet "Instinct MI300X".
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.types import Finding, Refused

GIB = 2**30
CONTEXT = 0.6 * GIB
"""Taken off a GPU's memory: driver, CUDA context and libraries. An assumption, not a measurement."""
REACHED = 0.4
"""The share of a named GPU's peak rate that a step is taken to reach. An assumption, not a measurement."""


@dataclass(frozen=True)
class Device:
    """``flops`` and ``bandwidth`` are what a step is reckoned with, per second; None where they are to be measured."""

    name: str
    kind: str
    memory: float
    has_bf16: bool
    flops: dict[str, float] | None = None
    bandwidth: float | None = None

    @property
    def usable(self) -> float:
        """Bytes that a run may take."""
        return self.memory - CONTEXT if self.kind == "cuda" else self.memory


# name: GiB, GB/s, TFLOP/s of bf16 (or fp16), TFLOP/s of fp32, whether there is bf16
TABLE: dict[str, tuple[float, float, float, float, bool]] = {
    "T4": (16, 320, 65, 8.1, False),
    "V100-16GB": (16, 900, 125, 15.7, False),
    "V100-32GB": (32, 900, 125, 15.7, False),
    "A10": (24, 600, 125, 31.2, True),
    "L4": (24, 300, 121, 30.3, True),
    "L40S": (48, 864, 362, 91.6, True),
    "RTX-3090": (24, 936, 71, 35.6, True),
    "RTX-4090": (24, 1008, 165, 82.6, True),
    "RTX-5090": (32, 1792, 209.5, 104.8, True),
    "RTX-A6000": (48, 768, 154.8, 38.7, True),
    "A100-40GB": (40, 1555, 312, 19.5, True),
    "A100-80GB": (80, 2039, 312, 19.5, True),
    "H100-80GB": (80, 3350, 989, 67, True),
    "H200-141GB": (141, 4800, 989, 67, True),
    "MI300X-192GB": (192, 5300, 1307, 163.4, True),
}


def named(name: str) -> Device:
    """A GPU of the table. Raises Refused with the nearest name."""
    spelled = name.strip().upper().replace(" ", "-").replace("_", "-").removeprefix("NVIDIA-")
    known = {key.upper(): key for key in TABLE}
    short = [key for upper, key in known.items() if upper.split("-")[0] == spelled or upper.replace("-", "") == spelled]
    key = known.get(spelled) or known.get(f"{spelled}GB") or (short[0] if short else None)
    if key is None:
        near = difflib.get_close_matches(spelled, list(known), n=1, cutoff=0.5)
        mend = f"did you mean `{known[near[0]]}`? " if near else ""
        mend += f"known: {', '.join(TABLE)}"
        raise Refused(Finding("plan.device", "--device", f"unknown device {name!r}", mend))
    size, bandwidth, half, single, has_bf16 = TABLE[key]
    rates = {"bf16": half * 1e12 * REACHED, "fp32": single * 1e12 * REACHED}
    return Device(key, "cuda", size * GIB, has_bf16, rates, bandwidth * 1e9 * REACHED)


def here(device: Any) -> Device:
    """The device that a run would train on here: a GPU, or this computer's memory."""
    import torch

    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return Device(found.name, "cuda", found.total_memory, torch.cuda.is_bf16_supported())
    from luthier.engine.precision import machine

    return Device(machine(device), "cpu", _memory(), True)


def _memory() -> float:
    """Bytes of RAM that this process could have: what is available now (or a control group's limit), and its own."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = Path("/proc/meminfo")
    if told.is_file():
        lines = dict(line.split(":", 1) for line in told.read_text(encoding="utf-8").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        available = min(available, int(text))
    return float(available)
