"""Blocks of a page in a shell (or Python) of their own, whose ``luthier`` has imported already.

In ``bash`` each ``luthier ...`` is a small program that hands its words, folder, environment and standard input to this
process, which runs the real command in a fork of one that has imported torch and transformers, and hands back what it
printed and its exit code. ``fresh`` takes the installed command instead.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from typed import environment

from forks import forks

COMMAND = "import sys\nfrom luthier.cli.main import main\nmain(sys.argv[1:])"
HANDS_OVER = """#!{python} -IS
import json, os, socket, sys

asked = {{"words": sys.argv[1:], "folder": os.getcwd(), "given": sys.stdin.read(), "environment": dict(os.environ)}}
with socket.create_connection(("127.0.0.1", {port})) as line:
    line.sendall(json.dumps(asked).encode() + b"\\n")
    answer = json.loads(line.makefile("rb").readline())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""


class _Answers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        folder = Path(asked["folder"])
        ran = forks().run(COMMAND, *asked["words"], folder=folder, given=asked["given"], **asked["environment"])
        answer = {"code": ran.returncode, "out": ran.stdout, "err": ran.stderr}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def run_block(language: str, text: str, folder: Path, tools: Path, *, fresh: bool) -> subprocess.CompletedProcess[str]:
    """A block in ``folder``; ``tools`` is a folder for the command that hands over."""
    if fresh:
        words = [sys.executable, "-c", text] if language == "python" else _bash(text)
        return _ran(words, folder, environment())
    if language == "python":
        return forks().run(text, folder=folder, **environment())
    forks()  # started here, and not in the thread that answers
    with socketserver.TCPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        tools.mkdir(exist_ok=True)
        (tools / "luthier").write_text(HANDS_OVER.format(python=sys.executable, port=server.server_address[1]))
        (tools / "luthier").chmod(0o755)
        known = environment()
        ran = _ran(_bash(text), folder, known | {"PATH": f"{tools}{os.pathsep}{known['PATH']}"})
        server.shutdown()
        thread.join()
    return ran


def _bash(text: str) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", text]


def _ran(words: list[str], folder: Path, known: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, env=known, text=True, capture_output=True, stdin=subprocess.DEVNULL)
