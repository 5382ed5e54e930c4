"""What each verb calls, and how its answer is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.cli.act import demonstrate, rollout, serve
from luthier.cli.adapters import adapters, export, merge, switch
from luthier.cli.align import align
from luthier.cli.say import given_lines, given_value, say
from luthier.cli.search import index, search
from luthier.types import Finding, Refused

STOPPED = {"SIGTERM": 143, "SIGINT": 130}


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    from luthier.reports.console import Console

    if as_json:
        say({"ok": not any(f.severity == "error" for f in findings), "findings": [vars(f) for f in findings]})
    else:
        Console().findings(findings)


def _source(given: argparse.Namespace) -> tuple[str | None, list[str], dict[str, Any]]:
    """The recipe's path, overrides, and the keys given as options."""
    keys = {
        key: given_value(f"--{key}", value)
        for key in ("task", "model", "data", "method")
        if (value := getattr(given, key, None))
    }
    overrides = list(given.overrides)
    recipe = given.recipe
    if recipe and "=" in recipe and not Path(recipe).exists():
        recipe, overrides = None, [recipe, *overrides]
    if recipe is None and not keys:
        mend = "give a recipe file, or --task, --model and --data; `luthier ls recipes` lists ready ones"
        raise Refused(Finding("recipe.missing", "command line", "there is no recipe", mend))
    return recipe, overrides, keys


def tune(given: argparse.Namespace) -> int:
    from luthier.reports.console import Console
    from luthier.runs.conduct import tune

    recipe, overrides, keys = _source(given)
    run = tune(recipe, overrides, console=Console(quiet=given.json), **keys)
    if given.json:
        say({"run": str(run.folder), "status": run.info["status"], "result": run.result})
    return 0 if run.finished else STOPPED[run.info.get("signal", "SIGTERM")]


def check(given: argparse.Namespace) -> int:
    from luthier.reports.console import Console
    from luthier.reports.rows import marked_rows
    from luthier.runs.conduct import check

    recipe, overrides, keys = _source(given)
    findings, prepared = check(recipe, overrides, **keys)
    errors = [finding for finding in findings if finding.severity == "error"]
    shown = marked_rows(prepared) if prepared else []
    if given.json:
        data = prepared.data if prepared else {}
        say({"ok": not errors, "findings": [vars(f) for f in findings], "data": data, "rows": shown})
        return 2 if errors else 0
    console = Console()
    if prepared:
        console.recipe(prepared.resolved.rows())
        console.rows(shown)
    console.findings(findings)
    console.note(
        "nothing is wrong"
        if not findings
        else f"{len(errors)} error(s), {len(findings) - len(errors)} other finding(s)"
    )
    return 2 if errors else 0


def compare(given: argparse.Namespace) -> int:
    from luthier.comparison.conduct import compare
    from luthier.reports.compare_console import Progress

    recipe, overrides, keys = _source(given)
    options = {key: getattr(given, key) for key in ("seeds", "budget", "search", "search_share", "retention", "to")}
    progress = Progress(quiet=given.json)
    found = compare(recipe, overrides, methods=given.methods, console=progress, **options, **keys)
    if given.json:
        say({"folder": str(found.folder), "status": found.status, "result": found.result})
    return STOPPED[found.stopped] if found.stopped else 0 if found.result["recommended"] else 1


def plan(given: argparse.Namespace) -> int:
    from luthier.plan.plan import plan
    from luthier.reports.console import Console
    from luthier.reports.outlook import outlook

    recipe, overrides, keys = _source(given)
    found = plan(recipe, overrides, device=given.device, **keys)
    if given.json:
        say(found.as_dict())
        return 0
    console = Console()
    for line in outlook(found.as_dict()):
        console.note(line)
    console.findings(found.findings)
    return 0


def predict(given: argparse.Namespace) -> int:
    from luthier.runs.run import load

    run = load(given.run)
    inputs = run.rows(given.data, given.images) if given.data else run.typed(given.inputs or given_lines())
    options = {"max_new_tokens": given.max_new_tokens} if given.max_new_tokens else {}
    answers = run.predict(inputs, **options)
    if given.json:
        say([{"input": one, **answer} for one, answer in zip(inputs, answers, strict=True)])
    else:
        task = run.predictor.task
        for answer in answers:
            print(task.shown_answer(answer))
            for passage in answer.get("passages", []):
                print(f"    {passage['score']:.4f}  {passage['file']}:{passage['line']}")
    return 0


def evaluate(given: argparse.Namespace) -> int:
    from luthier.runs.run import load

    options = {key: getattr(given, key) for key in ("include_path", "fewshot", "limit", "chat_template")}
    unread = [f"--{key.replace('_', '-')}" for key, value in options.items() if value not in (None, False)]
    if unread and not given.lm_eval:
        what, mend = "this is read with `--lm-eval` alone", "leave it out: labelled rows are all evaluated"
        raise Refused(Finding("evaluate.option", ", ".join(unread), what, mend))
    run = load(given.run, given.set)
    if given.lm_eval:
        return _harness(given, run, options)
    found = run.evaluate(given.data, given.images)
    if given.json:
        say(found)
        return 0
    print(f"{found['rows']} rows")
    if passages := found.get("passages"):
        print(f"{passages['missed']} of {passages['judged']} questions were given no passage that answers them")
    for name, metric in found["metrics"].items():
        span = f"  ({metric['low']:.4f} to {metric['high']:.4f})" if "low" in metric else ""
        print(f"{name:<16} {metric['value']:.4f}{span}")
    return 0


def _harness(given: argparse.Namespace, run: Any, options: dict[str, Any]) -> int:
    """Tasks of lm-evaluation-harness. It may print while it works, so with --json that goes to the error stream."""
    import contextlib

    with contextlib.redirect_stdout(sys.stderr):
        found = run.harness(given.lm_eval, **options)
    if given.json:
        say(found)
        return 0
    for task, told in found["tasks"].items():
        print(f"{task}: {told['rows']} rows" if told["rows"] else task)
        for name, metric in told["metrics"].items():
            error = f"  (standard error {metric['stderr']:.4f})" if "stderr" in metric else ""
            print(f"  {name:<24} {metric['value']:.4f}{error}")
    if found["truncated"]:
        print(f"{found['truncated']} texts were longer than the model reads, and lost their beginning")
    return 0


def chat(given: argparse.Namespace) -> int:
    """A conversation on the terminal; with --json, one line in, one JSON answer out."""
    from luthier.runs.run import load

    run = load(given.run)
    if run.info["task"] == "classify":
        raise Refused(
            Finding("run.task", given.run, "this run sorts texts, it does not write", "use `luthier predict`")
        )
    messages = [{"role": "system", "content": given.system}] if given.system else []
    options = {"max_new_tokens": given.max_new_tokens, "temperature": given.temperature}
    talking = sys.stdin.isatty() and not given.json
    while True:
        if talking:
            print("you: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return 0
        messages.append({"role": "user", "content": line.rstrip("\n")})
        given_input = messages if run.info["task"] in ("chat", "prefer", "reinforce") else line.rstrip("\n")
        (answer,) = run.predict([given_input], **options)
        messages.append({"role": "assistant", "content": answer["text"]})
        print(json.dumps(answer, ensure_ascii=False) if given.json else answer["text"], flush=True)


def embed(given: argparse.Namespace) -> int:
    from luthier.embed import embed_file

    told = embed_file(given.model, given.data, given.to, given.pooling, given.kind)
    if given.json:
        say(told)
    else:
        print(f"{told['rows']} vectors of {told['width']} numbers ({told['pooling']} pooling) in {told['file']}")
    return 0


def ls(given: argparse.Namespace) -> int:
    from luthier.catalogue import catalogue

    found = catalogue(Path(given.out), given.what)
    if given.json:
        say(found)
        return 0
    for kind, entries in found.items():
        print(kind)
        for entry in entries:
            print(f"  {entry['name']:<28} {entry['what']}")
    return 0


def copy(given: argparse.Namespace) -> int:
    from luthier.catalogue import copy_recipe, shortened

    written = copy_recipe(given.recipe, Path(given.to))
    if given.json:
        say([str(path) for path in written])
    else:
        for line in shortened(written):
            print(line)
    return 0


def schema(given: argparse.Namespace) -> int:
    from luthier.recipe import json_schema

    say(json_schema())
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "tune": tune,
    "check": check,
    "compare": compare,
    "plan": plan,
    "predict": predict,
    "evaluate": evaluate,
    "align": align,
    "chat": chat,
    "embed": embed,
    "index": index,
    "search": search,
    "rollout": rollout,
    "demonstrate": demonstrate,
    "serve": serve,
    "export": export,
    "merge": merge,
    "adapters": adapters,
    "switch": switch,
    "ls": ls,
    "copy": copy,
    "schema": schema,
}
