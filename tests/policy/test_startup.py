"""What a command costs before it does anything, and what works with no network at all."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.tasks import TASKS

HEAVY = ["torch", "transformers", "pydantic", "peft", "accelerate", "sklearn", "numpy", "yaml", "datasets", "rich"]
TOLD = f"import sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise OSError("the network was asked for")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
"""


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``code`` in an interpreter of its own, with an empty home."""
    home = {"HOME": str(folder), "HF_HOME": str(folder / "hub"), **environment}
    settings = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | home
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=settings)


def verb(*arguments: str) -> str:
    return f"""
from luthier.cli.main import main
try:
    main({list(arguments)})
except SystemExit as ended:
    assert not ended.code, ended.code
"""


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    for arguments in (["--help"], ["tune", "--help"], ["plan", "--help"], ["--version"]):
        done = run(verb(*arguments) + TOLD, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"
        assert done.stdout


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    done = run(f"import luthier; dir(luthier); {TOLD}", tmp_path)
    assert done.stderr.strip() == "[]"


def test_listing_what_there_is_imports_no_library_of_models(tmp_path: Path) -> None:
    done = run(verb("ls", "--json") + TOLD, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "peft", "sklearn"} & set(ast.literal_eval(done.stderr))
    listed = json.loads(done.stdout)
    for kind, known in (("tasks", TASKS), ("methods", METHODS), ("objectives", OBJECTIVES)):
        assert {one["name"]: one["what"] for one in listed[kind]} == {
            name: (known.load(name).__doc__ or "").split("\n")[0] for name in known
        }


def test_ls_schema_and_copy_work_with_sockets_blocked(tmp_path: Path) -> None:
    code = NO_NETWORK + verb("ls", "--json") + "print('----')" + verb("schema") + "print('----')"
    done = run(code + verb("copy", "sentiment", "--json"), tmp_path)
    assert done.returncode == 0, done.stderr
    listed, schema, copied = (json.loads(part) for part in done.stdout.split("----"))
    assert listed.keys() == {"tasks", "methods", "objectives", "recipes", "runs"}
    assert all(entry["what"] for entries in listed.values() for entry in entries)
    assert {"task", "model", "data", "method", "lora"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    assert all(Path(tmp_path, path).is_file() for path in copied)


def test_a_local_model_is_checked_and_tuned_with_sockets_blocked(tiny_folder: object, tmp_path: Path) -> None:
    """Nothing is fetched, and nothing asks whether it could be."""
    import tiny

    rows = [{"text": f"{word} {i}", "label": "ab"[i % 2]} for i, word in enumerate(tiny.WORDS)]
    tiny.write_jsonl(tmp_path / "rows.jsonl", rows)
    model = tiny.save("bert", tmp_path / "model")
    given = ["--task", "classify", "--model", model, "--data", "rows.jsonl", "--method", "lora", "steps=2", "--json"]
    done = run(NO_NETWORK + verb("tune", *given), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "finished"
