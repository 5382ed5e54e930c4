"""The pages say what is so: generated ones are up to date, every code is told, the examples of extending work."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from typed import REPOSITORY

import luthier
import tiny
from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.recipe import json_schema
from luthier.tasks import TASKS

DOCS, SOURCE = REPOSITORY / "docs", REPOSITORY / "src/luthier"
ROOMS = ["recipe", "data", "model", "method", "template", "task", "machine", "run", "train", "track", "export", "embed"]
ROOMS += ["copy", "checkpoint", "compare", "plan", "adapter", "adapters", "index", "search", "distill", "prefer"]
ROOMS += ["evaluate"]
ROOMS += ["reinforce", "act"]
FILES = {"samples.jsonl", "run.json", "model.safetensors", "compare.json", "compare.html"}  # names that look like codes


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipe_page_is_the_schema() -> None:
    assert read("recipe.md") == load(DOCS / "recipe_page.py").page(), "run `python docs/recipe_page.py`"


def test_every_key_of_the_schema_has_a_meaning() -> None:
    schema = json_schema()
    sections = {
        "ModelSection": "model",
        "DataSection": "data",
        "SamplesSection": "samples",
        "AugmentSection": "augment",
    }
    tables = {"": schema["properties"]} | {name: entry["properties"] for name, entry in schema["$defs"].items()}
    own = {*METHODS, *TASKS, *OBJECTIVES, *sections.values()}
    silent = [
        (table, key)
        for table, entries in tables.items()
        for key, entry in entries.items()
        if not (table == "" and key in own) and not entry.get("description")
    ]
    assert silent == []


@cache
def codes_in_source() -> set[str]:
    """Strings that are spelled as codes are, less the recipe's keys and file names."""
    spelled = re.compile(rf"(?:{'|'.join(ROOMS)})\.[a-z]+(?:-[a-z]+)*")
    keys = {"model.name", "model.template", "data.train", "data.eval", "data.select", "data.index", "data.passages"}
    keys |= {"data.images", "model.audio", "model.image", "model.text", "model.fuse", "model.init", "adapter.blocks"}
    keys |= {"reinforce.rewards", "plan.between", "act.predicts", "act.chunk", "act.bins"}
    found = {f"recipe.{key}" for key in ("task", "method", "objective")}  # made from the key's name
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and spelled.fullmatch(node.value):
                found.add(node.value)
    return found - keys - FILES


def test_every_code_is_told_and_no_other() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", read("checks.md"), re.MULTILINE)
    told = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    assert sorted(told) == sorted(set(told)), "told twice"
    assert set(told) == codes_in_source()


@pytest.mark.parametrize(("page", "registry"), [("methods.md", METHODS), ("tasks.md", TASKS), ("tasks.md", OBJECTIVES)])
def test_every_method_task_and_objective_is_on_its_page(page: str, registry: dict[str, str]) -> None:
    text = read(page)
    assert [name for name in registry if f"| `{name}` |" not in text] == []


def test_every_format_is_on_its_page() -> None:
    from luthier.data.files.read import READERS
    from luthier.data.formats.choose import FORMATS

    text = read("data.md")
    assert [name for name in FORMATS if f"| `{name}` |" not in text] == []
    assert [ending for ending in READERS if f"`{ending}`" not in text] == []


def test_the_rows_on_the_formats_page_have_those_formats() -> None:
    """The block has one row of each format, in the order of the table."""
    import json

    from luthier.data.formats.choose import FORMATS, recognise, to_example
    from luthier.types import Example, Source

    (block,) = re.findall(r"```text\n(.*?)```", read("data.md"), re.DOTALL)
    rows = [json.loads(line) for line in block.splitlines()]
    assert [recognise([(Source("page", 1), row)]) for row in rows] == list(FORMATS)
    for row, name in zip(rows, FORMATS, strict=True):
        assert isinstance(to_example(Source("page", 1), row, name), Example)


def test_recipe_keys_named_in_pages_exist() -> None:
    """``data.on_leak``, ``features.classifier`` and the like, wherever a page names one in code."""
    schema = json_schema()
    known = set(schema["properties"])
    names = {"model": "ModelSection", "data": "DataSection", "samples": "SamplesSection", "augment": "AugmentSection"}
    for section in [*METHODS, *TASKS, *OBJECTIVES, *names]:
        definition = names.get(section) or next((key for key in schema["$defs"] if f"__{section}__" in key), None)
        known |= {f"{section}.{key}" for key in schema["$defs"][definition]["properties"]} if definition else set()
    sections = "|".join([*METHODS, *TASKS, *names])
    for page in DOCS.glob("*.md"):
        for key in re.findall(rf"`((?:{sections})\.[a-z_]+)[`:]", page.read_text(encoding="utf-8")):
            assert key in known | FILES or key in codes_in_source(), f"{page.name}: {key}"


def example(title: str) -> ModuleType:
    """The module that a section of the page on extending shows."""
    section = read("extend.md").partition(f"## {title}\n")[2]
    text = re.findall(r"```python3\n(.*?)```", section, re.DOTALL)[0]
    module = ModuleType(f"extended_{title.split()[-1]}")
    exec(compile(text, title, "exec"), module.__dict__)
    return module


def test_the_examples_of_extending_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Callable[..., str]
) -> None:
    """The method and the objective of the page, registered as it says, train together and move only what they chose."""
    for registry, name, title in ((METHODS, "last_linears", "A method"), (OBJECTIVES, "focal", "An objective")):
        module = example(title)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(registry, name, module.__name__)
    rows = [{"text": f"{colour} {word}", "label": colour} for colour in ("red", "blue") for word in tiny.WORDS[3:]]
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = {"task": "classify", "model": tiny_folder("bert"), "data": data, "out": str(tmp_path), "epochs": 1}
    run = luthier.tune({**recipe, "method": {"last_linears": {"count": 2}}, "objective": "focal"})
    (group,) = [part for part in run.result["trained"] if part["role"] == "feed_forward"]
    assert group["tensors"] == 4  # two layers, each with weight and bias
    assert run.predict(["red cat"])[0]["label"] in ("red", "blue")


def test_the_pages_build(tmp_path: Path) -> None:
    """As `make docs` does, where Sphinx is installed; a warning is an error."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "dummy", str(DOCS), str(tmp_path)]
    ran = subprocess.run(words, text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / page).read_text(encoding="utf-8")):
            assert target.startswith("http") or (REPOSITORY / target).exists(), f"{page}: {target}"


def test_licence_is_apache_2_unchanged() -> None:
    """sha256 of the text that the Apache Software Foundation publishes."""
    import hashlib

    text = (REPOSITORY / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_pages_name_no_file_of_a_machine() -> None:
    """Nothing that only one machine has: no absolute paths."""
    for page in [*DOCS.glob("*.md"), *REPOSITORY.glob("*.md")]:
        assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users)/", page.read_text(encoding="utf-8")), page.name


def test_makefile_help_lines_name_real_targets() -> None:
    made = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*DOCS.glob("*.md"), *REPOSITORY.glob("*.md")]:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))) <= made, page.name
    assert subprocess.run(["make", "-n", "docs"], cwd=REPOSITORY, capture_output=True).returncode == 0
