"""The process that runs a model's code. Its first line of input is the code; each line after that is a call."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from confine import confine  # run by path, in a process that knows neither Luthier nor its dependencies
from values import from_json, to_json


def main() -> None:
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    os.environ.clear()  # the interpreter itself sets a locale
    job = json.loads(asked.readline())

    def say(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()

    confine(job["memory_mb"], job["seconds"])
    # The name under which a script's own `if __name__ == "__main__"` stays quiet.
    space: dict[str, Any] = {"__name__": "candidate"}
    try:
        exec(compile(job["source"], "<answer>", "exec"), space)
        function = space[job["entry_point"]]
    except BaseException as error:
        say(raised(error))
        return
    say({"ready": True})
    for line in asked:
        call = json.loads(line)
        try:
            arguments = [from_json(one) for one in call["arguments"]]
            value = function(*arguments, **{name: from_json(one) for name, one in call["named"].items()})
            say({"value": to_json(value)})
        except BaseException as error:
            say(raised(error))


def raised(error: BaseException) -> dict[str, str]:
    try:
        said = str(error)[:500]
    except BaseException:
        said = ""
    return {"raised": type(error).__name__, "said": said}


if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    main()
