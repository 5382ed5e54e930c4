"""Pictures and captions with the real command: two towers joined, judged both ways, classes by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from typed import session

import luthier
import tiny
from luthier.models.joined.dual_encoder import ComposedDualEncoder

COLOURS = ("red", "green", "blue")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Patches of three colours with what they show."""
    rows, labels = [], []
    for i in range(48):
        colour = COLOURS[i % 3]
        tiny.save_picture(tmp_path / f"images/{i}.png", colour, seed=i)
        rows.append(
            {"image": f"images/{i}.png", "caption": [f"the {colour} house", f"a {colour} {tiny.WORDS[3 + i % 8]}"]}
        )
        labels.append({"image": f"images/{i}.png", "label": colour})
    for name, some in (("train", rows[12:]), ("eval", rows[:12]), ("labels", labels[:12]), ("classes", labels[12:])):
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", some)
    return tmp_path


def test_two_towers_learn_to_find_each_other(folder: Path, tiny_folder: Callable[..., str]) -> None:
    image = tiny.save_image_model("vit", folder / "vit")
    (folder / "recipe.yaml").write_text(
        f"task: match\nmodel: {{image: {image}, text: {tiny_folder('bert')}, fuse: {{similarity: {{width: 16}}}}}}\n"
        "data: {train: train.jsonl, eval: eval.jsonl}\nmethod: full\nlearning_rate: 2e-3\nsteps: 40\nbatch_size: 24\n"
        "match: {templates: ['the {}', 'a {}']}\nname: pairs\n"
    )
    tuned, judged, named, listed, unlisted, predicted = session(
        folder, "tune recipe.yaml", "evaluate runs/pairs --data eval.jsonl --json",
        "evaluate runs/pairs --data labels.jsonl --json",
        "evaluate runs/pairs --data labels.jsonl --json --set match.labels=[red,green,blue,cat,dog]",
        "evaluate runs/pairs --data labels.jsonl --set match.labels=[red,green]",
        "predict runs/pairs images/0.png --json",
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    assert "mean_recall" in tuned.out
    result = json.loads((folder / "runs/pairs/result.json").read_text())
    assert result["after"]["loss"]["value"] < result["before"]["loss"]["value"] - 0.2
    assert result["trainable"] == result["parameters"], "the temperature counts once"
    recalls = judged.json["metrics"]
    assert judged.json["rows"] == 12
    assert recalls["image_to_text_recall@1"]["n"] == 12
    for name, told in result["after"].items():
        assert recalls[name]["value"] == pytest.approx(told["value"], abs=1e-5)
    assert named.json["metrics"]["accuracy"]["value"] > 0.8
    assert listed.json["metrics"]["accuracy"]["value"] <= named.json["metrics"]["accuracy"]["value"]
    assert unlisted.code == 2
    assert "'blue' is not in `match.labels`" in unlisted.out + unlisted.err
    (answer,) = predicted.json
    assert len(answer["vector"]) == 16
    run = luthier.load(folder / "runs/pairs")
    (chosen,) = run.predict([{"image": str(folder / "images/0.png"), "labels": list(COLOURS)}])
    assert chosen["label"] == "red"
    (of_text,) = run.predict(["the red house " * 30])  # longer than a file's name may be
    assert len(of_text["vector"]) == 16
    assert sum(chosen["probabilities"].values()) == pytest.approx(1)
    model = ComposedDualEncoder.from_pretrained(folder / "runs/pairs/final")
    assert float(model.logit_scale.detach()) != pytest.approx(2.6593, abs=1e-4), "it was learned, and is in the model"


def test_search_by_words_and_by_pictures(folder: Path) -> None:
    """A model as it came: each entry finds itself, both kinds are found from both, and the page has what was found."""
    model = tiny.save_dual_model("clip", folder / "clip")
    (folder / "images/words.txt").write_text("the red house\n\na blue cat\n", encoding="utf-8")
    rows = [{"image": "0.png", "captions": ["a green river", "old trees"]}]
    tiny.write_jsonl(folder / "images/more.jsonl", rows)
    tiny.write_jsonl(folder / "images/labels.jsonl", [{"image": "0.png", "label": "red"}])  # says nothing of a picture
    (folder / "images/notes.pdf").write_bytes(b"%PDF")
    made, again, words, beside, texts, printed, none, tokens, lost = session(
        folder, f"index {model} images --to index --json", f"index {model} images --to index --json",
        f"search {model} red --index index --json -k 3 --page found/page.html",
        f"search {model} images/7.png --index index --json -k 2",
        f"search {model} images/7.png --index index --find texts --json", f"search {model} cat --index index -k 1",
        f"search {model} red --index index --backend exact -k 0", f"index {model} images --to other --tokens 20",
        f"search {model} images/a.png --index index",
    )  # fmt: skip
    assert made.code == 0, made.err
    (elsewhere,) = session(folder / "found", f"search {model} red --index ../index --json -k 3")
    assert [one["image"] for one in elsewhere.json] == [str(folder / one["image"]) for one in words.json]
    assert (made.json["pictures"], made.json["texts"]) == (48, 4)
    assert made.json["not_read"] == ["images/notes.pdf"]
    assert made.json["empty"] == ["images/labels.jsonl"]
    assert again.json["embedded"] == []
    assert lost.code == 2, "a path that is none is no text to be sought"
    assert "there is no such file" in lost.out + lost.err
    assert [set(one) for one in words.json] == [{"image", "score"}] * 3
    page = (folder / "found/page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3
    assert all(one["image"] in page for one in words.json)
    assert beside.json[0] == {"image": "images/7.png", "score": pytest.approx(1, abs=1e-5)}
    assert {one["text"] for one in texts.json} == {"the red house", "a blue cat", "a green river", "old trees"}
    assert {(one["file"], one["line"]) for one in texts.json} >= {("images/words.txt", 3), ("images/more.jsonl", 1)}
    assert "images/" in printed.out
    assert (none.code, tokens.code) == (2, 2)
    best = transformers_order(model, folder, "red")
    assert [one["image"] for one in words.json] == best[:3]
    (folder / "images/bad.png").write_bytes(b"no picture")
    (folder / "images/worse.jpg").write_bytes((folder / "images/0.png").read_bytes()[:500])
    (refused,) = session(folder, f"index {model} images --to index")
    assert refused.code == 2
    assert "bad.png" in refused.out + refused.err
    assert "worse.jpg" in refused.out + refused.err


def transformers_order(path: str, folder: Path, text: str) -> list[str]:
    """Pictures by falling ``logits_per_text``, by transformers alone."""
    model = transformers.CLIPModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    names = [f"images/{i}.png" for i in range(48)]
    pixels = processor([Image.open(folder / name).convert("RGB") for name in names], return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokenizer([text], return_tensors="pt"), pixel_values=torch.as_tensor(pixels["pixel_values"]))
    return [names[at] for at in logits.logits_per_text[0].argsort(descending=True).tolist()]


def test_classes_train_by_their_names(folder: Path) -> None:
    model = tiny.save_dual_model("clip", folder / "clip")
    words = f"--task match --model {model} --data classes.jsonl data.eval=labels.jsonl --method full"
    tiny.write_jsonl(folder / "texts.jsonl", [{"text": "red"}])
    tuned, refused, planned, embedded = session(
        folder, f"tune {words} learning_rate=1e-3 steps=30 batch_size=24 name=classes",
        f"tune --task match --model {model} --data classes.jsonl --method features", f"plan {words}",
        "embed runs/classes --data texts.jsonl --to v.npy",
    )  # fmt: skip
    assert planned.code == 0, planned.err
    assert embedded.code == 2
    assert "run.task" in embedded.out + embedded.err
    assert tuned.code == 0, tuned.err
    result = json.loads((folder / "runs/classes/result.json").read_text())
    assert result["metric"] == "accuracy"
    assert result["after"]["accuracy"]["value"] > max(0.8, result["before"]["accuracy"]["value"])
    assert refused.code == 2
    assert "method.combination" in refused.out + refused.err


def test_photographs_with_captions(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Real photographs, five captions each, real towers: a few steps of the projections run, and pictures decode."""
    image, data = shared("models/mobilenet_v1_0.25_128"), shared("data/coco_captions")
    (tmp_path / "recipe.yaml").write_text(
        f"task: match\nmodel: {{image: {image}, text: 'starter:minilm', fuse: similarity}}\n"
        f"data: {{train: {data / 'captions.jsonl'}, eval: 0.2}}\nmethod: freeze\nsteps: 12\nname: photographs\n"
    )
    (tuned,) = session(tmp_path, "tune recipe.yaml")
    assert tuned.code == 0, tuned.err
    result = json.loads((tmp_path / "runs/photographs/result.json").read_text())
    assert result["after"]["loss"]["value"] < result["before"]["loss"]["value"]
    assert 5 < result["after"]["image_to_text_recall@1"]["n"] < 20, "pictures, each with its captions"


def test_a_linear_probe_of_a_few_pictures_a_class(folder: Path) -> None:
    """CLIP's image encoder alone, four rows of each class of 36: frozen vectors, logistic regression."""
    model = tiny.save_dual_model("clip", folder / "clip")
    words = f"tune --task classify --model {model} --data classes.jsonl data.eval=labels.jsonl --method features"
    tuned, evaluated, predicted, refused = session(
        folder, f"{words} data.few_shot=4 name=probe", "evaluate runs/probe --data labels.jsonl --json",
        "predict runs/probe images/0.png --json",
        f"tune --task match --model {model} --data train.jsonl data.few_shot=4 --method lora",
    )  # fmt: skip
    assert tuned.code == 0, tuned.out + tuned.err
    result = json.loads((folder / "runs/probe/result.json").read_text())
    told = result["data"]["train"]
    assert (told["read"], told["used"], told["skipped"]) == (36, 12, {"beyond few_shot": 24})
    assert result["data"]["labels"] == dict.fromkeys(COLOURS, 4)
    assert result["after"]["accuracy"]["value"] > 0.5
    assert evaluated.json["metrics"]["accuracy"]["value"] == result["after"]["accuracy"]["value"]
    assert predicted.json[0]["label"] in COLOURS
    assert refused.code == 2
    assert "no single class" in " ".join((refused.out + refused.err).split())
