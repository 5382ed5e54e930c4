"""What a person gets wrong at the prompt: exit code 2, what to do, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typed import Answer, command, environment, session

CLASSIFY = "--task classify --model starter:minilm --data rows.csv"

# line, what the answer must say (empty: argparse's own words)
MISTAKES = {
    "tune nowhere.yaml": "recipe.missing",
    "tune": "there is no recipe",
    "check sentimnet.yaml": "sentiment.yaml",
    "check sentiment.yaml epochs": "recipe.override",
    "check sentiment.yaml metod=lora": "`method`",
    "check sentiment.yaml lora.rnk=4": "`rank`",
    "check sentiment.yaml epochs=-1": "epochs",
    "check --task clasify --model starter:minilm --data rows.csv": "`classify`",
    f"check {CLASSIFY} method=lorra": "`lora`",
    "check --task classify --model ./no-model --data rows.csv": "model.missing",
    "check --task classify --model starter:maxilm --data rows.csv": "starter:minilm",
    "check --task classify --model starter:minilm --data row.csv": "rows.csv",
    f"check {CLASSIFY} features.classifier=knn": "recipe.unused-section",
    "predict nowhere hello": "run.missing",
    "evaluate nowhere --data rows.csv": "run.missing",
    "export nowhere merged": "run.missing",
    "chat nowhere": "run.missing",
    "embed starter:minilm --data rows.csv --to vectors.pkl": "embed.form",
    "copy sentimen": "`sentiment`",
    "tuna recipe.yaml": "",
    "evaluate nowhere": "",
    "ls methds": "",
    "tune sentiment.yaml --colour red": "",
    "tune sentiment.yaml --json --colour": "",
    "": "",
}


ORDERS = ["check typo.yaml epochs=x --json", "check typo.yaml --json epochs=x", "check --json typo.yaml epochs=x"]
MORE = [*ORDERS, "tune nowhere.yaml --json", "check many.yaml --json"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("mistakes")
    files = {
        "rows.csv": "text,label\ngood,yes\nbad,no\nfine,yes\npoor,no\n",
        "rows.jsonl": '{"text": "good", "label": "yes"}\n{"text": "bad", "label": null}\n{"text": "", "label": "no"}\n',
        "sentiment.yaml": "task: classify\nmodel: starter:minilm\ndata: rows.csv\n",
        "typo.yaml": "task: clasify\nmodel: starter:minilm\ndata: rows.csv\n",
        "many.yaml": "task: classify\nmodel: starter:minilm\ndata: rows.jsonl\nmetod: full\nepochs: many\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    lines = [*MISTAKES, *MORE]
    return dict(zip(lines, session(folder, *lines), strict=True))


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_refused_in_words(line: str, answers: dict[str, Answer]) -> None:
    answer = answers[line]
    assert answer.code == 2
    assert "Traceback" not in answer.out + answer.err
    assert MISTAKES[line] in answer.out
    if not MISTAKES[line]:
        assert "usage: luthier" in answer.out + answer.err


def test_refusals_are_json_where_json_was_asked_for(answers: dict[str, Answer]) -> None:
    told = answers["tune nowhere.yaml --json"].json
    assert told["ok"] is False
    assert told["findings"][0]["code"] == "recipe.missing"


@pytest.mark.parametrize("line", ORDERS)
def test_options_may_stand_anywhere(line: str, answers: dict[str, Answer]) -> None:
    assert [finding["code"] for finding in answers[line].json["findings"]] == ["recipe.task", "recipe.value"]


def test_check_lists_every_mistake_at_once(answers: dict[str, Answer]) -> None:
    places = {(f["code"], f["where"]) for f in answers["check many.yaml --json"].json["findings"]}
    assert {
        ("recipe.unknown-key", "many.yaml:4:metod"),
        ("recipe.value", "many.yaml:5:epochs"),
        ("data.empty-target", "rows.jsonl:2:label"),
        ("data.empty-target", "rows.jsonl:3:text"),
    } <= places


def test_the_installed_command_exits_with_2(tmp_path: Path) -> None:
    answer = command(tmp_path, "copy", "nowhere")
    assert answer.code == 2
    assert "there is no ready recipe" in answer.out
    assert "Traceback" not in answer.err


def test_help_and_version_need_no_heavy_library(tmp_path: Path) -> None:
    """Quick because nothing heavy is imported, which is what is tested; a clock would measure the machine."""
    code = (
        "import sys\n"
        "from luthier.cli.main import main\n"
        "for words in (['--help'], ['tune', '--help'], ['--version']):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sklearn', 'pydantic', 'peft', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert "usage: luthier" in ran.stdout
    assert ran.stdout.strip().endswith("0.1.0")
