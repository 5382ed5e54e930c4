"""AdapterFusion across modalities: what joins picture and text is trained first; on that model one adapter of the
decoder is trained on texts, one on captions, one on answers; a task with pictures fuses the three, and the weight of
each is told by modality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from battery import judged_in_a_fresh_process

import luthier
import tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Texts alone, captions, questions about a picture, and conversations of which some show one."""
    made, kinds = tmp_path_factory.mktemp("rows"), ("texts", "captions", "answers", "shown")
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for i in range(24):
        colour, word = ("red", "green")[i % 2], tiny.WORDS[3 + i % 9]
        image = str(tiny.save_picture(made / "images" / f"{i}.png", colour, seed=i))
        told = {"role": "assistant", "content": colour}
        rows["texts"].append({"messages": [{"role": "user", "content": f"the {word} and {colour} {i}"}, told]})
        rows["captions"].append({"image": image, "captions": [f"the {colour}"]})
        rows["answers"].append({"image": image, "question": f"the {word}", "answers": [colour]})
        asked = {"role": "user", "content": f"<image> the {word}" if i % 3 else f"the {word} {colour} {i}"}
        rows["shown"].append({"messages": [asked, told], **({"images": [image]} if i % 3 else {})})
    return {kind: tiny.write_jsonl(made / f"{kind}.jsonl", some) for kind, some in rows.items()}


@pytest.fixture(scope="module")
def runs(
    files: dict[str, str], tiny_folder: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, luthier.Run]:
    made = tmp_path_factory.mktemp("stages")
    towers = {"image": tiny.save_image_model("vit", made / "vit"), "text": tiny_folder("llama"), "fuse": "projection"}
    shared: dict[str, Any] = {"steps": 12, "batch_size": 16, "final": "last", "out": str(made), "warmup": 0}
    joined = luthier.tune(
        task="caption", model=towers, data={"train": files["captions"], "eval": 0.25}, name="joined",
        method={"projector": {"full": {}, "learning_rate": 1e-2}}, **shared,
    )  # fmt: skip
    found = {"joined": joined}
    stages = [("texts", "chat"), ("captions", "caption"), ("answers", "vqa")]
    for kind, task in stages:
        found[kind] = luthier.tune(
            task=task, model=str(joined.folder / "final"), data={"train": files[kind], "eval": 0.25}, name=kind,
            method={"text": {"adapter": {"size": 8}, "learning_rate": 2e-2}}, **shared,
        )  # fmt: skip
    members = [str(found[kind].folder) for kind, _ in stages]
    found["fused"] = luthier.tune(
        task="chat", model=str(joined.folder / "final"), data={"train": files["shown"], "eval": 0.3}, name="fused",
        method={"text": {"fusion": members, "learning_rate": 2e-2}}, **shared,
    )  # fmt: skip
    return found


def test_the_members_are_fused_and_told_by_modality(runs: dict[str, luthier.Run]) -> None:
    """Weights of a place sum to 1; rows with pictures and without are counted; only those have tokens of pictures."""
    told = runs["fused"].result["mixing"]
    assert told["members"] == ["texts", "captions", "answers"]
    parts = {part["what"]: part for part in told["by"]}
    assert {*parts} == {"tokens of pictures", "tokens of text", "rows with pictures", "rows of text alone"}
    assert parts["tokens of pictures"]["rows"] == parts["rows with pictures"]["rows"] > 0
    assert parts["tokens of text"]["rows"] == told["rows"]
    assert parts["rows of text alone"]["rows"] + parts["rows with pictures"]["rows"] == told["rows"]
    for part in parts.values():
        assert len(part["layers"]) == tiny.LAYERS
        assert all(sum(layer) == pytest.approx(1, abs=1e-5) for layer in part["layers"])
    assert parts["tokens of pictures"]["layers"] != parts["tokens of text"]["layers"]
    report = (runs["fused"].folder / "report.html").read_text(encoding="utf-8")
    assert "Mixing weights by modality" in report
    assert "tokens of pictures" in report


def test_a_row_s_mean_is_that_of_its_tokens_of_both_kinds(runs: dict[str, luthier.Run]) -> None:
    """Over n tokens of a picture and m of text the mean over all is (n · p + m · q) / (n + m), by hand."""
    fused = luthier.load(runs["fused"].folder)
    _, prepared = luthier.check(str(fused.folder / "recipe.yaml"))
    (row,) = [row for row in prepared.train.rows if row.get("pictures")][:1]
    batch = prepared.objective.collate([row])
    of, places = prepared.adaptation.mixing_of, prepared.backbone.picture_places(batch)[: int(batch["lengths"][0])]
    n, m = int(places.sum()), int((~places).sum())
    assert n == prepared.backbone.pictures.tokens
    shown, said = of["tokens of pictures"](batch), of["tokens of text"](batch)
    mean = (n * shown + m * said) / (n + m)
    assert (prepared.adaptation.mixing(batch) - mean).abs().max() < 1e-6


def test_the_fused_model_opens_the_same_in_a_fresh_process(runs: dict[str, luthier.Run], files: dict[str, str]) -> None:
    (found,) = judged_in_a_fresh_process(files["shown"], runs["fused"])
    here = luthier.load(runs["fused"].folder).evaluate(files["shown"])["metrics"]
    assert found["loss"]["value"] == pytest.approx(here["loss"]["value"], rel=1e-6)
