"""Commands as a person types them: the blocks of a page, and sessions of the real command without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forks import forks

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(shell|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Every verb of a session in one process, a fork of one that has imported torch. No socket may connect or look a name
# up.
SESSION = """
import contextlib, io, json, socket, sys
from luthier.cli.main import main

def refuse(*given, **more):
    raise OSError("the network was asked for")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
answers = []
for words, typed in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    sys.stdin = io.StringIO(typed)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code
    answers.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
json.dump(answers, sys.__stdout__)
"""


@dataclass
class Answer:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    """The command is the one of this environment; models come from folders, never from a hub."""
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": bin_first, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "COLUMNS": "100"}


def session(folder: Path, *lines: str | tuple[str, str]) -> list[Answer]:
    """The answers to ``luthier`` lines (words parted by single spaces), each perhaps with its standard input."""
    pairs = [(line.split(" "), "") if isinstance(line, str) else (line[0].split(" "), line[1]) for line in lines]
    ran = forks().run(SESSION, folder=folder, given=json.dumps(pairs), **environment())
    assert ran.returncode == 0, ran.stderr
    return [Answer(**answer) for answer in json.loads(ran.stdout)]


def command(folder: Path, *words: str) -> Answer:
    """The installed command, in a process of its own."""
    ran = subprocess.run(["luthier", *words], cwd=folder, env=environment(), text=True, capture_output=True)
    return Answer(ran.returncode, ran.stdout, ran.stderr)


def talker(tiny: str, folder: Path) -> Path:
    """A copy of a tiny decoder that takes conversations of a usual length."""
    shutil.copytree(tiny, folder)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(values | {key: 1024}), encoding="utf-8")
    return folder


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the shell, python and yaml blocks of a page of the repository, in order."""
    return BLOCK.findall((REPOSITORY / page).read_text(encoding="utf-8"))
