"""Texts to vectors with a pretrained model or a finished run: as it was trained to, prefixes and pooling included.

A run of `retrieve` leaves in ``final/`` an ``embedding.json`` (pooling, prefixes, normalisation), and beside a whole
model sentence-transformers' layout too (``modules.json``, ``1_Pooling/config.json``).

Axes: K texts, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from luthier.engine.precision import choose_matmul
from luthier.evaluate.outputs import MICRO_TOKENS, Reader
from luthier.models.backbone import Backbone
from luthier.models.load import load
from luthier.models.locate import locate
from luthier.models.pooling import FLAGS, pooling_of
from luthier.runs.run import Run
from luthier.types import Finding, Refused

FILE, OWN = "embedding.json", "objective.safetensors"
MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Settings:
    """How a text becomes a vector. ``max_length`` is in tokens, the prefix among them."""

    pooling: str
    normalize: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 512
    sizes: tuple[int, ...] = ()


@dataclass
class Embedder:
    """``fingerprint`` tells this model, with these settings, from any other: vectors of two don't compare."""

    name: str
    backbone: Backbone
    reader: Reader
    settings: Settings
    fingerprint: str

    def tokens(self, text: str) -> list[int]:
        """The ids of a text alone, uncut."""
        return self.backbone.tokenizer(text)["input_ids"]

    def vectors(self, texts: Sequence[str], prefix: str = "") -> np.ndarray:
        """(K, D) fp32; texts over the limit are cut."""
        told = [prefix + text for text in texts]
        encoded = self.backbone.tokenizer(told, truncation=True, max_length=self.settings.max_length)["input_ids"]
        rows = [{"row": i, "input_ids": ids} for i, ids in enumerate(encoded)]
        vectors_KD = self.reader.vectors(rows, self.settings.pooling)
        if self.settings.normalize:
            vectors_KD = torch.nn.functional.normalize(vectors_KD, dim=-1)
        return vectors_KD.numpy()

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        return self.vectors(texts, self.settings.query_prefix)

    def passages(self, texts: Sequence[str]) -> np.ndarray:
        return self.vectors(texts, self.settings.passage_prefix)

    @property
    def room(self) -> int:
        """How many tokens of a passage's own text fit, between its prefix and the tokens that open and close it."""
        return self.settings.max_length - len(self.tokens(self.settings.passage_prefix))


def open_embedder(model: str, base: Path | None = None, *, pooling: str | None = None) -> Embedder:
    """``model``: a run's folder, a model's folder, a hub id or ``starter:minilm``. Raises Refused for neither."""
    if (Path(model) / "run.json").is_file():
        return _of_run(model, pooling)
    path, missing = locate(model, base or Path.cwd())
    if missing:
        raise Refused(*missing)
    backbone = load(model, path, "hidden")
    backbone.place(_device())
    backbone.choose_layout("auto")
    limit = min(n for n in (backbone.max_positions, backbone.tokenizer.model_max_length, 2048) if n)
    settings = Settings(pooling or pooling_of(backbone), max_length=limit)
    reader = Reader(backbone, MICRO_TOKENS[_device().type], matmul=choose_matmul("auto", _device())[0])
    return Embedder(model, backbone, reader, settings, _fingerprint(backbone, settings))


def _of_run(folder: str, pooling: str | None) -> Embedder:
    run = Run(folder)
    predictor, final = run.predictor, run.folder / "final"
    if predictor.solved is not None:
        mend = "embed with the model that it was made from"
        raise Refused(Finding("run.task", folder, "this run's model is as it came: it has a classifier alone", mend))
    if predictor.backbone.needs == "vectors":
        mend = "use `luthier index` and `luthier search`; `luthier predict` answers a text with its vector"
        raise Refused(Finding("run.task", folder, "this run's vectors are of pictures and of captions", mend))
    backbone = replace(predictor.backbone, needs="hidden")
    if (final / FILE).is_file():
        told = json.loads((final / FILE).read_text(encoding="utf-8"))
        settings = Settings(**told | {"sizes": tuple(told["sizes"])})
    else:
        settings = Settings(pooling_of(backbone), max_length=run.resolved.recipe.max_length or 512)
    settings = replace(settings, pooling=pooling or settings.pooling)
    reader = replace(predictor.reader, backbone=backbone)
    weights = sorted(path for path in final.rglob("*.safetensors") if path.name != OWN)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
    return Embedder(folder, backbone, reader, settings, _fingerprint(backbone, settings, *digests))


def _fingerprint(backbone: Backbone, settings: Settings, *more: str) -> str:
    told = "|".join([backbone.fingerprint, repr(settings), *more])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_embedding(task: Any, objective: Any, max_length: int | None, final: Path, opens_with: str) -> None:
    """What a run of coupled rows leaves beside its weights: its settings, and what the objective itself learned."""
    if objective.parameters:
        final.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in objective.parameters.items()}, final / OWN)
    if objective.needs != "hidden":  # vectors that the model itself makes
        return
    settings = Settings(
        objective.pooling, objective.options.normalize, task.query_prefix, task.passage_prefix,
        max_length or 512, tuple(objective.options.sizes),
    )  # fmt: skip
    _write(final / FILE, vars(settings) | {"sizes": list(settings.sizes)})
    if opens_with == "transformers":
        _sentence_transformers(final, settings, objective.backbone.width)


def load_own(objective: Any, final: Path) -> None:
    """Give an objective the numbers that it learned."""
    if objective.couples and objective.parameters:
        saved = load_file(final / OWN)
        with torch.no_grad():
            for name, parameter in objective.parameters.items():
                parameter.copy_(saved[name])


def _sentence_transformers(final: Path, settings: Settings, width: int) -> None:
    """The layout that ``SentenceTransformer(folder)`` opens."""
    names = MODULES if settings.normalize else MODULES[:2]
    _write(
        final / "modules.json",
        [
            {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{name}",
             "type": f"sentence_transformers.models.{name}"}
            for i, name in enumerate(names)
        ],
    )  # fmt: skip
    _write(final / "sentence_bert_config.json", {"max_seq_length": settings.max_length, "do_lower_case": False})
    modes = {flag: settings.pooling == name for name, flag in FLAGS.items()}
    _write(final / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})
    if settings.normalize:
        (final / "2_Normalize").mkdir(exist_ok=True)
    prompts = {"query": settings.query_prefix, "document": settings.passage_prefix}
    similarity = "cosine" if settings.normalize else "dot"
    _write(final / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": similarity})


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
