"""The backend that made a run's pixels, Pillow or torchvision: kept with the run, asked for again where it is opened,
and told where it is another. What needs torchvision skips where it is not installed.
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml

import families
import luthier
import tiny
from luthier.models.load import load
from luthier.models.vision.pixels import made_by, open_pixels
from luthier.runs.pixels import APART, OtherPixels
from luthier.types import Refused

TORCHVISION = find_spec("torchvision") is not None
HERE = "torchvision" if TORCHVISION else "pil"
needs_torchvision = pytest.mark.skipif(not TORCHVISION, reason="needs torchvision, which is not installed")
needs_none = pytest.mark.skipif(TORCHVISION, reason="is of a machine without torchvision, which is installed here")


@pytest.fixture
def keys(pictures: list[Path], tmp_path: Path) -> dict[str, Any]:
    rows = [{"image": str(one), "label": "ab"[at % 2]} for at, one in enumerate(pictures)]
    model = tiny.save_image_model("vit", tmp_path / "model")
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    return {"task": "classify", "model": model, "data": data, "method": "lora", "steps": 1, "out": str(tmp_path)}


def told_in(run: Any) -> dict[str, Any]:
    return yaml.safe_load((run.folder / "recipe.yaml").read_text())


def test_it_is_kept_with_a_run_and_asked_for_again(
    keys: dict[str, Any], pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = luthier.tune(**keys)
    assert told_in(run)["image_backend"] == HERE
    assert "# machine" in next(
        line for line in (run.folder / "recipe.yaml").read_text().splitlines() if "image_b" in line
    )
    info = json.loads((run.folder / "run.json").read_text())
    assert info["machine"]["image_backend"] == HERE
    assert ("torchvision" in info["versions"], "pillow" in info["versions"]) == (TORCHVISION, True)

    asked, own = [], transformers.AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained",
        lambda *given, **more: (asked.append(more.get("backend")), own(*given, **more))[1],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtherPixels)
        again = luthier.load(run.folder).predict([str(pictures[0])])
    assert again == run.predict([str(pictures[0])])
    assert {*asked} == {HERE}


def test_a_run_of_texts_says_nothing_of_it(tiny_folder: Any, tmp_path: Path) -> None:
    rows = [{"text": "the cat", "label": "ab"[at % 2]} for at in range(4)]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    run = luthier.tune(task="classify", model=tiny_folder("bert"), data=data, method="lora", steps=1, out=str(tmp_path))
    assert "image_backend" not in told_in(run)
    assert json.loads((run.folder / "run.json").read_text())["machine"]["image_backend"] is None


@needs_none
def test_one_that_is_missing_is_refused_before_a_step_and_told_in_use(
    keys: dict[str, Any], pictures: list[Path]
) -> None:
    findings, prepared = luthier.check(**keys, image_backend="torchvision")
    assert [one.code for one in findings if one.severity == "error"] == ["model.image-backend"]
    assert prepared is None

    run = luthier.tune(**keys)
    path = run.folder / "recipe.yaml"
    path.write_text(path.read_text().replace('image_backend: "pil"', 'image_backend: "torchvision"'))
    with pytest.warns(OtherPixels, match="as torchvision reads them, and here pil does") as told:
        assert luthier.load(run.folder).predict([str(pictures[0])]) == run.predict([str(pictures[0])])
    assert APART in str(told[0].message)


def test_a_run_that_was_stopped_on_another_machine_says_why_it_does_not_go_on(keys: dict[str, Any]) -> None:
    """As if it had been stopped where the other backend reads."""
    run = luthier.tune(**keys, name="run")
    path, other = run.folder / "run.json", {"pil": "torchvision", "torchvision": "pil"}[HERE]
    info = json.loads(path.read_text()) | {"status": "stopped", "recipe_hash": "another"}
    info["machine"]["image_backend"] = other
    path.write_text(json.dumps(info))
    found = luthier.tune(**keys, name="run")
    assert found.folder.name == "run-2"
    (told,) = (one for one in found.result["findings"] if one["code"] == "model.image-backend")
    assert told["severity"] == "warning"
    assert f"`image_backend: {other}`" in told["mend"]


@needs_none
def test_a_processor_of_torchvision_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "DINOv3ViTImageProcessor"}')
    with pytest.raises(Refused, match="by torchvision alone") as refused:
        open_pixels(str(tmp_path))
    assert refused.value.findings[0].code == "model.processor"


@needs_torchvision
@pytest.mark.parametrize("kind", [*tiny.VISION_LANGUAGE, *families.FILMS, *families.PREFIX, *families.LEADING])
def test_a_whole_processor_reads_by_either(kind: str, pictures: list[Path], tmp_path: Path) -> None:
    """By Pillow bit for bit what Pillow's class makes; films are read too where they are; the rows are the same."""
    save = tiny.save_vision_language_model if kind in tiny.VISION_LANGUAGE else families.save
    path = save(kind, tmp_path)
    found = {name: load("vlm", path, "token_logits", image_backend=name) for name in ("pil", "torchvision")}
    assert {name: one.pictures.backend for name, one in found.items()} == {name: name for name in found}
    keys = {name: one.pictures.key(pictures[0]) for name, one in found.items()}
    assert len({tuple(one.places(keys[name])) for name, one in found.items()}) == 1
    made = {name: one.pictures.tensors([keys[name]])["pixel_values"].double() for name, one in found.items()}
    torch.testing.assert_close(made["pil"], made["torchvision"], rtol=0, atol=0.032)
    if kind in families.FILMS and find_spec("num2words"):
        assert found["pil"].pictures.processor.video_processor is not None


@needs_torchvision
def test_what_learned_without_torchvision_reads_the_same_beside_it(keys: dict[str, Any], pictures: list[Path]) -> None:
    run = luthier.tune(**keys, image_backend="pil")
    backbone = luthier.load(run.folder).predictor.backbone
    assert made_by(backbone.pictures.processor) == "pil"
    row = backbone.picture_row([pictures[0]], None, None)
    with_pillow = open_pixels(str(run.folder / "final"), "pil")
    from PIL import Image

    wanted = np.asarray(with_pillow(Image.open(pictures[0]).convert("RGB"), return_tensors="np")["pixel_values"])
    assert np.array_equal(backbone.lay_out([row | {"row": 0}])["pixel_values"].numpy(), wanted)
