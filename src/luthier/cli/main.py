"""``luthier VERB ...``: parse, call, print. Heavy imports wait until a verb runs, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

EPILOG = "A recipe's keys are told by `luthier schema`; ready recipes by `luthier ls recipes`."


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="luthier",
        description="Adapt a pretrained model to a task: any method, any objective, one engine.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")

    _from_recipe(verbs)
    _answers(verbs)
    _of_a_run(verbs)
    _of_documents(verbs)
    _of_policies(verbs)
    _of_several_runs(verbs)
    _others(verbs)
    return top


IMAGES = "where pictures are that do not lie beside the file of rows (default: as in training)"
FROM_RECIPE = {
    "tune": "train: from a recipe to a run folder; the same command goes on where it was stopped",
    "check": "everything that is wrong with a recipe, its data and its model, before a step is taken",
    "plan": "memory, time and disk of a run before anything is spent, and what would make it fit",
    "compare": "several methods on the same rows: a table, a page and what to take; the same command goes on",
}


def _from_recipe(verbs: Any) -> None:
    """Verbs that begin with a recipe: a file, or its first keys as options, and any key after it."""
    for name, text in FROM_RECIPE.items():
        verb = verbs.add_parser(name, help=text, description=text, epilog=EPILOG)
        verb.add_argument("recipe", nargs="?", help="a recipe file (or give --task, --model and --data)")
        verb.add_argument("overrides", nargs="*", metavar="key=value", help="for example lora.rank=16 epochs=2")
        for key in ("task", "model", "data") if name == "compare" else ("task", "model", "data", "method"):
            verb.add_argument(f"--{key}", help=f"the recipe's `{key}`")
        _json(verb)

    verbs.choices["plan"].add_argument("--device", help="a GPU to plan for: T4, RTX-4090, A100-40GB, H100-80GB, ...")
    verb = verbs.choices["compare"]
    verb.add_argument("--methods", required=True, help="for example features,lora(rank=4),adapter,full")
    verb.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    verb.add_argument("--budget", help="no new run begins after this long: 90s, 30m, 1h30m")
    verb.add_argument("--search", type=int, default=0, metavar="N", help="learning rates to try for each method")
    verb.add_argument("--search-share", type=float, default=0.3, help="of the steps, in the search (default: 0.3)")
    verb.add_argument("--retention", metavar="FILE", help="text, or labelled rows, to measure forgetting on")
    verb.add_argument("--to", metavar="FOLDER", help="default: runs/compare-<task>-<model>")


def _answers(verbs: Any) -> None:
    """Verbs that ask a finished run about rows."""
    verb = verbs.add_parser("predict", help="answer inputs with a finished run")
    verb.add_argument("run", help="a run folder")
    verb.add_argument("inputs", nargs="*", help="texts, files or rows as JSON; default: lines of standard input")
    verb.add_argument("--data", help="a file of rows to answer instead (JSONL, CSV, ...)")
    verb.add_argument("--images", nargs="+", default=[], metavar="FOLDER", help=IMAGES)
    verb.add_argument("--max-new-tokens", type=int, help="for tasks that write text")
    _json(verb)

    verb = verbs.add_parser("evaluate", help="the task's metrics with intervals, on labelled rows; or benchmarks")
    verb.add_argument("run", help="a run folder")
    verb.add_argument("--set", nargs="+", default=[], metavar="key=value", help="such as code.run_tests=true")
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", nargs="+", help="files of rows")
    verb.add_argument("--images", nargs="+", default=[], metavar="FOLDER", help=IMAGES)
    what.add_argument("--lm-eval", nargs="+", metavar="TASK", help="tasks of lm-evaluation-harness (an extra)")
    verb.add_argument("--include-path", metavar="FOLDER", help="lm-eval: tasks of your own, as YAML files")
    verb.add_argument("--fewshot", type=int, metavar="N", help="lm-eval: examples before each question")
    verb.add_argument("--limit", type=int, metavar="N", help="lm-eval: only the first rows of each task")
    verb.add_argument("--chat-template", action="store_true", help="lm-eval: ask in turns, by the run's chat template")
    _json(verb)


def _of_a_run(verbs: Any) -> None:
    """Verbs that take a finished run's folder."""
    verb = verbs.add_parser("align", help="when each word of a known text is said in a sound")
    verb.add_argument("run", help="a run folder of `transcribe`")
    verb.add_argument("audio", help="a sound")
    verb.add_argument("--text", required=True, help="what is said in it, or a file that holds that")
    _json(verb)

    verb = verbs.add_parser("chat", help="talk to a finished run")
    verb.add_argument("run", help="a run folder")
    verb.add_argument("--system", help="the system turn")
    verb.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    verb.add_argument("--max-new-tokens", type=int, default=256)
    _json(verb)

    verb = verbs.add_parser("embed", help="one vector per row, from a pretrained model or a run")
    verb.add_argument("model", help="a model (folder, hub id, starter:minilm) or a run folder")
    verb.add_argument("--data", required=True, help="a file of rows with text")
    verb.add_argument("--to", required=True, help="file to write: .npy or .safetensors")
    verb.add_argument(
        "--pooling", choices=("mean", "first", "last"), help="default: mean; last where the model is causal"
    )
    _json(verb)

    verb.add_argument(
        "--as", dest="kind", choices=("query", "passage"), default="passage", help="which prefix it takes"
    )

    verb = verbs.add_parser("export", help="write a run's model in another form, and check that it answers the same")
    verb.add_argument("run", help="a run folder")
    verb.add_argument("form", help="merged")
    verb.add_argument("--to", help="folder to write")
    _json(verb)

    verb = verbs.add_parser("merge", help="fold a run's adapter into the weights, with a parity report")
    verb.add_argument("run", help="a run folder")
    verb.add_argument("--to", help="folder to write; default: merged, in the run folder")
    _json(verb)


def _of_documents(verbs: Any) -> None:
    """Verbs that make documents searchable and search them."""
    verb = verbs.add_parser("index", help="documents cut into passages, with a vector for each, to be searched")
    verb.add_argument("run", help="a run folder, or a model (folder, hub id, starter:minilm)")
    verb.add_argument("documents", help="a folder or file: text, rows with text; for a run of `match` pictures too")
    verb.add_argument("--to", help="folder to write; default: index, in the run folder, or runs/index-<model>")
    verb.add_argument("--tokens", type=int, help="of a passage (default: 200)")
    verb.add_argument("--overlap", type=int, help="tokens of a passage that the next one repeats (default: 40)")
    verb.add_argument("--size", type=int, help="numbers of each vector to keep, for models trained with `sizes`")
    _json(verb)

    verb = verbs.add_parser("search", help="the passages of an index that are nearest to a question in meaning")
    verb.add_argument("run", help="the run folder or model that made the index")
    verb.add_argument("query", help="what is sought, in words; in an index of pictures also a picture's path")
    verb.add_argument("--find", choices=("pictures", "texts"), help="in an index of pictures (default: pictures)")
    verb.add_argument("--page", metavar="FILE", help="also write the answer as an HTML page, with thumbnails")
    verb.add_argument("-k", type=int, default=5, help="how many passages (default: 5)")
    verb.add_argument("--index", help="the index's folder, where `luthier index` was told one")
    verb.add_argument(
        "--backend", choices=("exact", "faiss"), default="exact", help="default: exact, which FAISS is too"
    )
    _json(verb)


def _of_policies(verbs: Any) -> None:
    """Verbs that act: runs of `act` in an environment, and the expert of one."""
    verb = verbs.add_parser(
        "rollout", help="a policy in an environment: how often it succeeds, beside expert and chance"
    )
    verb.add_argument("run", help="a run folder of `task: act`")
    verb.add_argument("--env", required=True, help="an environment of gymnasium: BabyAI-GoToRedBall-v0, ...")
    verb.add_argument("--episodes", type=int, default=100, help="each with a seed of its own (default: 100)")
    verb.add_argument("--seed", type=int, default=0, help="of the first episode; the next ones follow (default: 0)")
    verb.add_argument("--record", type=int, default=0, metavar="N", help="also write the first N episodes as a GIF")
    verb.add_argument("--instruction", default="", help="say this, whatever the environment asks for")
    verb.add_argument("--execute", type=int, metavar="N", help="actions of a chunk before asking anew (default: all)")
    verb.add_argument("--ensemble", action="store_true", help="ask at every step, and average what was said of it")
    verb.add_argument("--temperature", type=float, default=0.0, help="draw named actions (default: 0, the likeliest)")
    verb.add_argument("--alone", action="store_true", help="leave out the expert and chance")
    verb.add_argument("--to", metavar="FOLDER", help="what is written goes there; default: the run folder")
    _json(verb)

    verb = verbs.add_parser("demonstrate", help="episodes of an environment's own expert, as rows to learn from")
    verb.add_argument("env", help="BabyAI-GoToRedBall-v0, ...")
    verb.add_argument("--episodes", type=int, default=100, help="(default: 100)")
    verb.add_argument("--seed", type=int, default=0, help="of the first episode (default: 0)")
    verb.add_argument("--to", required=True, metavar="FOLDER", help="episodes.jsonl and frames/ are written there")
    _json(verb)

    verb = verbs.add_parser("serve", help="a policy on this machine's own address: observations in, actions out")
    verb.add_argument("run", help="a run folder of `task: act`")
    verb.add_argument("--port", type=int, default=8571, help="of 127.0.0.1 (default: 8571; 0: a free one)")


def _of_several_runs(verbs: Any) -> None:
    """Verbs that put adapters of several runs together."""
    verb = verbs.add_parser("adapters", help="what several runs' adapters are; their average, or a stack of them")
    verb.add_argument("runs", nargs="+", help="run folders")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--average", action="store_true", help="one adapter that gives the mean of theirs")
    how.add_argument("--stack", action="store_true", help="all in force, the first one lowest; the last one's head")
    verb.add_argument("--weights", help="of the average, for example 0.7,0.3; default: even")
    verb.add_argument("--to", help="run folder to write")
    _json(verb)

    verb = verbs.add_parser("switch", help="answer with several runs' adapters on one copy of their base model")
    verb.add_argument("runs", nargs="+", help="run folders of `method: adapter`")
    verb.add_argument("--use", help="the run that answers; default: every one, side by side")
    verb.add_argument("--data", help="a file of rows to answer; a row's `adapter` names the run that answers it")
    verb.add_argument("--text", action="append", default=[], help="an input; may be given again")
    verb.add_argument("--max-new-tokens", type=int, help="for tasks that write text")
    _json(verb)


def _others(verbs: Any) -> None:
    """What there is, and how to begin."""
    verb = verbs.add_parser("ls", help="what there is: tasks, methods, objectives, recipes, runs")
    verb.add_argument("what", nargs="?", choices=("tasks", "methods", "objectives", "recipes", "runs"))
    verb.add_argument("--out", default="runs", help="folder of the runs")
    _json(verb)

    verb = verbs.add_parser("copy", help="copy a ready recipe, and the data it names, to edit it")
    verb.add_argument("recipe", help="a name of `luthier ls recipes`")
    verb.add_argument("to", nargs="?", default=".", help="folder")
    _json(verb)

    verbs.add_parser("schema", help="the JSON schema of a recipe")


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="answer in JSON on standard output")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options may stand anywhere: argparse alone refuses words that follow one, as in `tune r.yaml --json epochs=1`."""
    top = parser()
    given, late = top.parse_known_args(arguments)
    several = dict.fromkeys(FROM_RECIPE, "overrides") | {"predict": "inputs"}
    late_for = several.get(given.verb)
    if late and (late_for is None or any(word.startswith("-") for word in late)):
        top.error(f"unrecognized arguments: {' '.join(late)}")
    if late_for and late:
        words = [*getattr(given, late_for), *late]
        if late_for == "overrides" and given.recipe is None:
            given.recipe, *words = words
        setattr(given, late_for, words)
    return given


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Exit codes: 0 done, 2 refused (the findings are printed), 130 or 143 stopped by a signal after saving."""
    given = parse(arguments)
    if given.version:
        from importlib.metadata import version

        print(version("luthier"))
        sys.exit(0)
    if not given.verb:
        parser().print_help()
        sys.exit(2)
    # Forked tokenizer threads would deadlock; a message about it on every start helps no one.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # from one library to the authors of another
    from luthier.cli import verbs
    from luthier.types import Refused

    try:
        sys.exit(verbs.VERBS[given.verb](given))
    except Refused as refused:
        verbs.print_findings(refused.findings, as_json=getattr(given, "json", False))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
