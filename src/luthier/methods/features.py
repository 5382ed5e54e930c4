"""Feature extraction: the trunk is frozen, each row becomes one vector once, and a classifier is fitted to the vectors.

Classifiers: scikit-learn's logistic regression, k-nearest neighbours and ridge, or a small torch head. What is saved
is tensors and settings, never a pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.methods.common import MethodOptions
from luthier.models.backbone import Backbone
from luthier.types import Adaptation, Finding, Refused, Solved

DEFAULTS: dict[str, Any] = {}
FILE = "features"


class Options(MethodOptions):
    whole: ClassVar[bool] = False
    seam: ClassVar[str] = "output"
    alone: ClassVar[str] = "`features` fits a classifier to frozen vectors, without gradients for anything else"
    whole_model: ClassVar[str] = "`features` fits a classifier to vectors of the whole model"
    classifier: Literal["logistic", "knn", "ridge", "torch"] = Field(
        "logistic", description="fitted to the vectors; logistic becomes ridge where targets are numbers"
    )
    pooling: Literal["mean", "first", "last"] | None = Field(
        None, description="default: mean; last where the trunk is causal"
    )
    C: float = Field(1.0, gt=0, description="logistic: inverse of the regularisation")
    neighbours: int = Field(5, gt=0, description="knn")
    alpha: float = Field(1.0, gt=0, description="ridge: regularisation")
    hidden: int = Field(256, gt=0, description="torch: width of the hidden layer")

    def needs(self, objective_needs: str) -> str:
        if objective_needs != "sequence_logits":
            mend = "use `task: classify`, or another method (`lora`, `full`, `freeze`)"
            what = "feature extraction gives one vector a row, and this task predicts tokens"
            if objective_needs in ("hidden", "vectors"):
                what = "feature extraction fits a classifier to vectors, and this task has no classes"
            raise Refused(Finding("method.combination", "method", what, mend))
        return "hidden"


def adapt(backbone: Backbone, options: Options) -> Adaptation:
    if any(".fusion." in f".{name}" for name in backbone.fresh):
        what = "what joins text and pictures is new, so that vectors of the frozen model would be drawn at random"
        mend = "use `freeze` with `train: [head]`, which trains what is new, or `lora`"
        raise Refused(Finding("method.combination", "method", what, mend))
    pooling = options.pooling or ("last" if backbone.causal else "mean")
    settings = options.model_dump() | {"pooling": pooling}

    def solve(vectors_KD: Tensor, targets: list[Any]) -> Solved:
        return Classifier.fitted(vectors_KD, targets, settings)

    return Adaptation("features", {}, lambda folder: None, solve=solve, pooling=pooling)


def attach(backbone: Backbone, folder: Path) -> Classifier:
    return Classifier.load(folder)


class Classifier:
    """Outputs (K, C) from vectors (K, D); the tensors are all that it knows."""

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]):
        self.settings, self.tensors = settings, tensors

    @classmethod
    def fitted(cls, vectors_KD: Tensor, targets: list[Any], settings: dict[str, Any]) -> Classifier:
        """``targets``: class ids, rows of 0/1, or floats (a float makes it a regression)."""
        y = np.asarray(targets)
        kind = "multi" if y.ndim == 2 else "number" if y.dtype.kind == "f" else "class"
        name = settings["classifier"]
        if kind == "number" and name == "logistic":
            name = "ridge"
        settings = settings | {"kind": kind, "classifier": name, "classes": int(y.max()) + 1 if kind == "class" else 0}
        tensors = FIT[name](vectors_KD.double(), y, settings)
        return cls(settings, {key: value.float().contiguous() for key, value in tensors.items()})

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        settings = json.loads((folder / f"{FILE}.json").read_text(encoding="utf-8"))
        return cls(settings, load_file(folder / f"{FILE}.safetensors"))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / f"{FILE}.safetensors")
        (folder / f"{FILE}.json").write_text(json.dumps(self.settings, indent=2), encoding="utf-8")

    def outputs(self, vectors_KD: Tensor) -> list[list[float]]:
        if self.settings["classifier"] == "knn":
            return self._neighbours(vectors_KD)
        x, t = vectors_KD.float(), self.tensors
        if "hidden_weight" in t:
            x = torch.tanh((x - t["mean"]) / t["scale"] @ t["hidden_weight"].T + t["hidden_bias"])
        return (x @ t["weight"].T + t["bias"]).tolist()

    def _neighbours(self, vectors_KD: Tensor) -> list[list[float]]:
        from sklearn.neighbors import NearestNeighbors

        t = self.tensors
        count = min(self.settings["neighbours"], len(t["vectors"]))
        index = NearestNeighbors(n_neighbors=count).fit(t["vectors"].numpy())
        near_KN = index.kneighbors(vectors_KD.float().numpy(), return_distance=False)
        share_KC = t["targets"].numpy()[near_KN].mean(axis=1)
        if self.settings["kind"] == "number":
            return share_KC.tolist()
        share_KC = share_KC.clip(1e-6, 1 - 1e-6)
        # As logits, so that softmax (one class) or sigmoid (several) gives the neighbours' shares back.
        logits = np.log(share_KC) if self.settings["kind"] == "class" else np.log(share_KC / (1 - share_KC))
        return logits.tolist()


def _logistic(vectors_KD: Tensor, y: np.ndarray, settings: dict[str, Any]) -> dict[str, Tensor]:
    from sklearn.linear_model import LogisticRegression

    def one(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fitted = LogisticRegression(C=settings["C"], max_iter=2000).fit(vectors_KD.numpy(), target)
        return fitted.coef_, fitted.intercept_

    if settings["kind"] == "multi":
        parts = [one(column) for column in y.T]
        weight, bias = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    else:
        weight, bias = one(y)
        if len(weight) == 1:  # two classes: z against 0, written as two logits
            weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    return {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}


def _one_hot(y: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    if settings["kind"] == "class":
        return np.eye(settings["classes"])[y]
    return y[:, None].astype(float) if settings["kind"] == "number" else y.astype(float)


def _ridge(vectors_KD: Tensor, y: np.ndarray, settings: dict[str, Any]) -> dict[str, Tensor]:
    from sklearn.linear_model import Ridge

    signs = _one_hot(y, settings) if settings["kind"] == "number" else 2 * _one_hot(y, settings) - 1
    fitted = Ridge(alpha=settings["alpha"]).fit(vectors_KD.numpy(), signs)
    return {
        "weight": torch.from_numpy(np.atleast_2d(fitted.coef_)),
        "bias": torch.from_numpy(np.atleast_1d(fitted.intercept_)),
    }


def _knn(vectors_KD: Tensor, y: np.ndarray, settings: dict[str, Any]) -> dict[str, Tensor]:
    return {"vectors": vectors_KD, "targets": torch.from_numpy(_one_hot(y, settings))}


def _torch(vectors_KD: Tensor, y: np.ndarray, settings: dict[str, Any]) -> dict[str, Tensor]:
    """One tanh layer on standardised vectors, fitted by L-BFGS on the whole set."""
    generator = torch.Generator().manual_seed(0)
    mean, scale = vectors_KD.mean(0), vectors_KD.std(0).clamp(min=1e-6)
    x_KD, targets = ((vectors_KD - mean) / scale).float(), torch.from_numpy(_one_hot(y, settings)).float()
    shapes = [
        (settings["hidden"], x_KD.shape[1]),
        (settings["hidden"],),
        (targets.shape[1], settings["hidden"]),
        (targets.shape[1],),
    ]
    w1, b1, w2, b2 = (
        (torch.randn(shape, generator=generator) * shape[-1] ** -0.5 * (len(shape) == 2)).requires_grad_()
        for shape in shapes
    )
    loss_of: Any = {
        "class": torch.nn.functional.cross_entropy,
        "multi": torch.nn.functional.binary_cross_entropy_with_logits,
        "number": torch.nn.functional.mse_loss,
    }[settings["kind"]]
    optimizer = torch.optim.LBFGS([w1, b1, w2, b2], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.tanh(x_KD @ w1.T + b1) @ w2.T + b2
        loss = loss_of(logits, targets) + 1e-3 * (w1.square().sum() + w2.square().sum()) / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    named = {"hidden_weight": w1, "hidden_bias": b1, "weight": w2, "bias": b2, "mean": mean, "scale": scale}
    return {name: tensor.detach() for name, tensor in named.items()}


FIT = {"logistic": _logistic, "knn": _knn, "ridge": _ridge, "torch": _torch}
