"""Code to write: how rows become ids, how an answer becomes a source, and pass@k, on numbers that fit on paper."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
import transformers

import tiny
from luthier.data.files.problems import STDLIB, read_python
from luthier.data.formats.choose import read_examples
from luthier.data.text.continued import begun, goes_on
from luthier.evaluate import code
from luthier.sandbox import Verdict

PROMPT = 'import math\n\n\ndef area(r):\n    """The area of a circle."""\n'
BODY = "    return math.pi * r**2\n"


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_one_that_passes(samples: int) -> None:
    """Every draw of k of n answers, counted."""
    for passed in range(samples + 1):
        answers = [True] * passed + [False] * (samples - passed)
        for k in range(1, samples + 1):
            draws = list(combinations(answers, k))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert code.pass_at_k(samples, passed, k) == pytest.approx(expected)


def test_pass_at_k_wants_k_samples() -> None:
    with pytest.raises(ValueError, match="at least 3 samples"):
        code.pass_at_k(2, 1, 3)


def test_metrics_are_over_problems_and_outcomes_over_samples() -> None:
    """Of two problems one has one right answer of two: pass@1 is (0.5 + 0) / 2, pass@2 is (1 + 0) / 2."""
    verdicts = [[Verdict("passed"), Verdict("wrong")], [Verdict("timeout"), Verdict("wrong")]]
    found = code.with_intervals(verdicts, [1, 2])
    assert found["pass@1"]["value"] == 0.25
    assert found["pass@2"]["value"] == 0.5
    shares = {name: entry["value"] for name, entry in found.items() if name.startswith("tests: ")}
    assert shares == {"tests: passed": 0.25, "tests: wrong": 0.5, "tests: timeout": 0.25}


@pytest.mark.parametrize(
    ("answer", "goes_on_"),
    [
        (BODY, True),
        (BODY + "\ndef main():\n    launch()\n", True),
        (BODY + "\nprint(area(1))", True),
        (f"{PROMPT}{BODY}", False),
        (f"def area(r):\n{BODY}", False),
        (f"Here it is:\n```python\ndef area(r):\n{BODY}```\nIt squares `r`.", False),
        (f"```\nx = 1\n```\nand\n```py\ndef area(r):\n{BODY}", False),
        (BODY, False),
        (BODY.strip(), False),
    ],
)
def test_an_answer_becomes_a_source(answer: str, goes_on_: bool) -> None:
    source = code.source_of(answer, PROMPT, "area", goes_on=goes_on_)
    space: dict[str, Any] = {}
    exec(compile(source, "source", "exec"), space)  # this test's own text
    assert space["area"](2) == pytest.approx(12.566370614359172)
    assert "launch" not in source
    assert "print(" not in source


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte-level": lambda: tiny_tokenizers.byte_level(400),
    "bytes": lambda: tiny_tokenizers.byte_level(0),
    "metaspace": lambda: tiny_tokenizers.metaspace(bos=True),
    "tiny": lambda: tiny.tokenizer(encoder=False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_asked_is_how_the_taught_row_begins(name: str) -> None:
    """Token for token; and what is supervised is the code and the end of text, all of it and nothing else."""
    tokenizer = TOKENIZERS[name]()
    taught = goes_on(tokenizer, PROMPT, BODY.rstrip())
    ids, rest = begun(tokenizer, PROMPT)
    count = taught.supervised.index(True)
    assert taught.input_ids[:count] == ids
    assert all(taught.supervised[count:])
    given, whole = (tokenizer.decode(some, skip_special_tokens=True) for some in (ids, taught.input_ids))
    assert whole[len(given) :] == rest + BODY.rstrip()
    assert taught.input_ids[-1] == tokenizer.eos_token_id
    assert taught.turn_ends == [len(taught.input_ids) - 1]


def test_a_token_over_the_border_is_the_model_s() -> None:
    """A tokenizer that has one token for a line end and the spaces after it: the prompt stops before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([PROMPT + BODY] * 5, trainer)
    tokenizer: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert tokenizer.tokenize("\n    return") == ["ĊĠĠĠ", "Ġreturn"]
    _, rest = begun(tokenizer, PROMPT)
    assert rest == "\n"


def test_functions_of_the_standard_library() -> None:
    rows, findings = read_python(STDLIB)
    assert findings == []
    assert len(rows) > 2000
    names = {source.file for source, _ in rows}
    assert f"{STDLIB}/json/__init__.py" in names
    for _, row in rows[::50]:
        tree = ast.parse(row["prompt"] + row["canonical_solution"])
        (function,) = tree.body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert function.name == row["entry_point"]
        assert ast.get_docstring(function)


def test_another_corpus_of_python_is_refused(tmp_path: Path) -> None:
    read = read_examples("python:stdlb", base=tmp_path)
    assert [(finding.code, "python:stdlib" in finding.mend) for finding in read.findings] == [("data.missing", True)]


def test_problems_that_are_no_python_are_told_by_row(tmp_path: Path) -> None:
    good = {"prompt": PROMPT, "entry_point": "area", "canonical_solution": BODY, "test": "assert area(0) == 0"}
    wrong = [good | {"canonical_solution": "    return ("}, good | {"test": "assert ("}, good | {"entry_point": ""}]
    file = tiny.write_jsonl(tmp_path / "rows.jsonl", [good, *wrong])
    read = read_examples(file, base=tmp_path)
    assert read.format == "code-problem"
    assert len(read.examples) == 1
    told = [(finding.code, finding.where.partition("rows.jsonl:")[2]) for finding in read.findings]
    assert told == [
        ("data.code", "2:canonical_solution"), ("data.code", "3:test"), ("data.empty-target", "4:entry_point"),
    ]  # fmt: skip
