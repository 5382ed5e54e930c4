"""The code of the cards of models that read pictures, run as it stands: it says what the run says."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import luthier
import tiny

COLOURS = ("red", "green", "blue")


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Tune on patches of colours, run the card's code beside the weights; (run, folder, code, what was printed)."""

    def run(task: str, model: Any, method: str, says: str, **more: Any) -> Any:
        rows = []
        for i in range(12):
            tiny.save_picture(tmp_path / f"{i}.png", COLOURS[i % 3], seed=i)
            rows.append({"image": f"{i}.png", says: f"{COLOURS[i % 3]} house"} | more)
        data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
        made = luthier.tune(
            task=task, model=model, data=data, out=str(tmp_path / "runs"), method=method, steps=2, batch_size=12,
            learning_rate=1e-2,
        )  # fmt: skip
        final = made.folder / "final"
        code = (final / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
        tiny.save_picture(final / "photo.png", "red", seed=99).rename(final / "photo.jpg")
        monkeypatch.chdir(final)
        capsys.readouterr()
        exec(compile(code, "card", "exec"), {})  # the card's own code is what is tested
        return made, final, code, ast.literal_eval(capsys.readouterr().out.strip())

    return run


@pytest.mark.parametrize(
    ("kind", "method", "opened"),
    [
        ("towers", "full", "import ComposedDualEncoder"), ("towers", "lora", "import luthier"),
        ("clip", "full", "import AutoImageProcessor, AutoModel"), ("clip", "lora", "import luthier"),
        ("siglip", "full", 'padding="max_length", max_length=24'),
    ],
)  # fmt: skip
def test_what_a_picture_shows(
    kind: str, method: str, opened: str, ran: Callable[..., Any], tiny_folder: Callable[..., str], tmp_path: Path
) -> None:
    model: Any = {"image": "", "text": tiny_folder("bert"), "fuse": "similarity"}
    if kind == "towers":
        model["image"] = tiny.save_image_model("vit", tmp_path / "vit")
    else:
        model = tiny.save_dual_model(kind, tmp_path / kind)
    made, final, code, printed = ran("match", model, method, "caption")
    assert opened in code
    texts = ["a photo of a dog", "a photo of a cat"]
    (expected,) = made.predict([{"image": str(final / "photo.jpg"), "texts": texts}])
    assert printed == pytest.approx(expected["probabilities"], abs=1e-5)
    assert len({round(chance, 6) for chance in printed.values()}) == 2, "the texts differ"


def test_classes_of_pictures(ran: Callable[..., Any], tiny_folder: Callable[..., str], tmp_path: Path) -> None:
    """Of pictures alone, of CLIP's image encoder, and of pictures with texts by two towers, which transformers alone
    does not open."""
    model = tiny.save_image_model("vit", tmp_path / "vit")
    for one in (tiny.save_dual_model("clip", tmp_path / "clip"), model):
        made, final, _, printed = ran("classify", one, "full", "label")
        assert printed == made.predict([{"image": str(final / "photo.jpg")}])
    towers = {"image": model, "text": tiny_folder("bert"), "fuse": "projection"}
    made, final, _, printed = ran("classify", towers, "full", "label", text="the house")
    assert printed == made.predict([{"image": str(final / "photo.jpg"), "text": "A sentence to judge."}])


ROWS = {
    "answer": {
        "question": "who wrote it",
        "context": "ada wrote it",
        "answers": {"text": ["ada"], "answer_start": [0]},
    },
    "code": {
        "prompt": "def f(a):\n",
        "entry_point": "f",
        "canonical_solution": "    return a\n",
        "test": "assert f(1)",
    },
}


@pytest.mark.parametrize(("task", "kind"), [("answer", "bert"), ("answer", "llama"), ("code", "llama")])
def test_tasks_whose_rows_have_a_form(
    task: str, kind: str, tiny_folder: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """transformers opens the model, and does not know how such a row is asked: the card asks by the run."""
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", [ROWS[task]] * 4)
    made = luthier.tune(
        task=task, model=tiny_folder(kind), data=data, out=str(tmp_path / "runs"), method="full", steps=1
    )
    final = made.folder / "final"
    code = (final / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert "import luthier" in code
    monkeypatch.chdir(final)
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})  # the card's own code is what is tested
    asked = ast.literal_eval(code.partition("run.predict(")[2].rpartition("))")[0])
    assert ast.literal_eval(capsys.readouterr().out.strip()) == made.predict(asked)
