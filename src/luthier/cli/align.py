"""``luthier align``: when each word of a known text is said in a sound."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from luthier.cli.say import say


def align(given: argparse.Namespace) -> int:
    from luthier.runs.run import load
    from luthier.types import Finding, Refused

    run = load(given.run)
    if run.info["task"] != "transcribe":
        what, mend = f"this run's task is `{run.info['task']}`", "give a run of `transcribe`"
        raise Refused(Finding("run.task", given.run, what, mend))
    is_file = os.path.isfile(given.text)  # Path's own raises for a text too long to be a name
    text = Path(given.text).read_text(encoding="utf-8") if is_file else given.text
    (answer,) = run.predict([{"audio": given.audio, "text": text}])
    if given.json:
        say(answer)
        return 0
    for word in answer["words"]:  # as editors of sound read labels: start, end and text between tabs
        print(f"{word['start']:.3f}\t{word['end']:.3f}\t{word['word']}")
    return 0
