"""Number formats and matrix multiplication, by what the machine has. Trainable weights and optimizer state stay fp32.

On x86 CPUs that are not Intel's, torch's default fp32 matmul leaves half of the AVX-512 units idle; oneDNN's does not
and stays true fp32 (relative error under 1e-6, asked of the machine before it is used).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch

from luthier.types import Finding, Refused


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """("fp32" or "bf16", where it came from). Raises Refused for bf16 where the device has none."""
    has = torch.cuda.is_bf16_supported() if device.type == "cuda" else "bf16" in _cpu_flags()
    if wanted == "bf16" and not has:
        mend = "use `precision: fp32`, or leave it to `auto`"
        raise Refused(Finding("machine.precision", "precision", f"this {device.type} has no bf16 arithmetic", mend))
    if wanted != "auto":
        return wanted, "given"
    return ("bf16" if device.type == "cuda" and has else "fp32"), "machine"


def choose_matmul(wanted: str, device: torch.device) -> tuple[str, str]:
    """("onednn" or "default", origin): oneDNN for fp32 on a CPU where it is both faster and exact."""
    if wanted != "auto":
        return wanted, "given"
    if device.type != "cpu" or "avx512f" not in _cpu_flags() or "amx" in _cpu_flags() or "GenuineIntel" in _cpu_flags():
        return "default", "machine"
    return ("onednn" if _onednn_is_exact() else "default"), "machine"


@cache
def _cpu_flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0] if path.exists() else ""


def machine(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's with its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = [line.partition(":")[2].strip() for line in _cpu_flags().splitlines() if line.startswith("model name")]
    return f"{(models or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores"


@cache
def _onednn_is_exact() -> bool:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    with matmul_route("onednn"):
        product = a @ b
    exact = a.double() @ b.double()
    return bool(((product - exact).norm() / exact.norm()) < 1e-6)


@contextmanager
def matmul_route(route: str) -> Iterator[None]:
    """Within it, large fp32 matmuls on the CPU go through oneDNN where ``route`` says so."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if route == "onednn" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
