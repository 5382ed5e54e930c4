"""What a plan says of a run: memory by part and phase, time, disk, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from luthier.plan.devices import Device
from luthier.plan.time import Timing
from luthier.types import Finding

MEGABYTE = 2**20


@dataclass
class Estimate:
    """Sizes are bytes and times seconds. ``parts`` are held at the worst moment, in phase ``worst``, and add up to
    ``peak`` before any correction by runs."""

    device: Device
    recipe: list[tuple[str, Any, str]]
    model: dict[str, Any]
    parts: dict[str, float]
    phases: dict[str, float]
    worst: str
    peak: float
    timing: Timing
    disk: dict[str, float]
    notes: list[str]
    findings: list[Finding]
    origin: dict[str, str] = field(default_factory=dict)
    advice: list[dict[str, Any]] = field(default_factory=list)
    scale: float = 1.0
    """What measured runs multiplied ``peak`` by."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.device.usable

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: megabytes (2**20 bytes) and seconds."""
        megabytes = partial(_scaled, by=MEGABYTE)
        return {
            "device": {"name": self.device.name, "usable_mb": round(self.device.usable / MEGABYTE)},
            "model": self.model,
            "memory": {
                "peak_mb": round(self.peak / MEGABYTE, 1),
                "worst": self.worst,
                "parts_mb": megabytes(self.parts),
                "phases_mb": megabytes(self.phases),
                "origin": self.origin.get("memory", ""),
            },
            "time": self.timing.as_dict() | {"origin": self.origin.get("time", self.timing.origin)},
            "disk_mb": megabytes(self.disk),
            "fits": self.fits,
            "advice": self.advice,
            "notes": self.notes,
            "findings": [vars(finding) for finding in self.findings],
        }


def _scaled(values: dict[str, float], by: float) -> dict[str, float]:
    return {name: round(value / by, 1) for name, value in values.items()}
