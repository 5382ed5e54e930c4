"""A run that could begin."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from luthier.data.encode import Encoded
from luthier.data.mixing import Mixture
from luthier.engine.cache import rows_hash
from luthier.engine.coupled import own_parameters
from luthier.models.backbone import Backbone
from luthier.recipe import ResolvedRecipe
from luthier.runs.beside.teacher import teacher_of
from luthier.types import Adaptation, Features, Finding


@dataclass
class Prepared:
    """A run that could begin: what the checks look at, and what the engine is given."""

    resolved: ResolvedRecipe
    task: Any
    backbone: Backbone
    objective: Any
    adaptation: Adaptation
    train: Encoded
    evaluation: Encoded
    data: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    selection: Encoded = field(default_factory=Encoded)
    mixture: Mixture | None = None
    prompts: list[Any] = field(default_factory=list)
    """What is asked as training goes on."""
    beneath: str = ""
    """sha256 of the models that reward answers; empty where none does."""

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def weights(self) -> list[Tensor]:
        """Every parameter of the model, and those that the objective has itself: a value model's. Each is there once:
        one may be of both."""
        every = (*self.backbone.model.parameters(), *own_parameters(self.objective).values())
        return list({id(parameter): parameter for parameter in every}.values())

    @property
    def choosing(self) -> list[Features]:
        """The rows that are evaluated during training, and on which the best checkpoint is chosen."""
        return self.selection.rows or self.evaluation.rows

    @cached_property
    def untaught(self) -> str:
        """sha256 of everything that changes the result but a teacher: recipe, rows as encoded, adapters beneath."""
        methods, sides = self.resolved.methods, (self.train, self.evaluation, self.selection)
        told = [self.resolved.hash, *(rows_hash(side.rows) for side in sides)]
        if methods.builds_on:
            told.append(methods.digest())
        if self.beneath:
            told.append(self.beneath)
        return hashlib.sha256("|".join(told).encode()).hexdigest()[:16]

    @cached_property
    def identity(self) -> str:
        """sha256 of everything that changes the result, the teacher's weights among it."""
        teacher = teacher_of(self.objective)
        if teacher is None:
            return self.untaught
        return hashlib.sha256(f"{self.untaught}|{teacher.fingerprint}".encode()).hexdigest()[:16]
