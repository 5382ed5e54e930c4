"""Record what others give: `python tests/parity/captions/record.py CAPTIONS.jsonl VQA_FOLDER > .../scores.json`.

Run in an environment with pycocoevalcap 1.2 (and Java, for its tokenizer of the Penn Treebank). ``VQA_FOLDER`` holds
``vqaEval.py`` of GT-Vision-Lab/VQA, made Python 3. The captions are COCO's (CC BY 4.0): of each picture the first is
what was written, the others are its references; every third picture is given another's caption.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[2])

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from vqaEval import VQAEval

PICTURES = 12
TEN = {
    "mixed": ["yes", "yes", "no", "yes", "yes", "no", "yes", "yes", "no", "yes"],
    "two": ["2", "2", "3", "2", "two", "4", "3", "3", "1", "0"],
    "same": ["on the table"] * 10,
    "marks": ["1,000", "1000", "1,000", "a lot", "$1,000", "1,000", "many", "1000", "lots", "1,000"],
    "short": ["don't walk", "don't walk", "dont walk", "stop", "don't walk", "stop!", "walk", "don't", "stop", "no"],
    "dots": ["3.5", "3.5", "p.m.", "p.m", "pm", "pm", "3.5 p.m.", "pm", "pm", "pm"],
}
WRITTEN = [
    "yes", "No", "two", "2", "Three", "the table", "on table", "on the table", "1,000", "1000", "$1,000!", "dont walk",
    "don't walk", "stop", "stop!", "a lot", "3.5", "pm", "p.m.", "P.M", "none", "zero", "left/right", "it's; a [cat]",
    "an apple", "The  end.", "half-full", "no , thanks", "what?", "10 (ten)", "line\nbreak",
]  # fmt: skip


def captions(path: Path) -> dict[str, object]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:PICTURES]
    written = [rows[(at + 1) % len(rows) if at % 3 == 2 else at]["captions"][0] for at in range(len(rows))]
    references = [row["captions"][1:] for row in rows]
    as_coco = PTBTokenizer()
    ours = as_coco.tokenize({at: [{"caption": text}] for at, text in enumerate(written)})
    theirs = as_coco.tokenize({at: [{"caption": one} for one in some] for at, some in enumerate(references)})
    cider = Cider().compute_score(theirs, ours)[1].tolist()
    return {"written": written, "references": references, "cider_d": cider,
            "words": [ours[at][0].split() for at in range(len(rows))],
            "reference_words": [[one.split() for one in theirs[at]] for at in range(len(rows))],
            "rouge_l": Rouge().compute_score(theirs, ours)[1].tolist()}  # fmt: skip


def answers() -> dict[str, object]:
    evaluation = VQAEval(None, SimpleNamespace(getQuesIds=list))
    made = {text: evaluation.processDigitArticle(evaluation.processPunctuation(
        text.replace("\n", " ").replace("\t", " ").strip())) for text in WRITTEN}  # fmt: skip
    return {
        "normalised": made,
        "accuracy": {name: _accuracies(evaluation, TEN[name], made) for name in TEN},
        "ten": TEN,
    }


def _accuracies(evaluation: VQAEval, ten: list[str], made: dict[str, str]) -> dict[str, float]:
    """The loop of ``VQAEval.evaluate`` over the answers of one question."""
    known = [evaluation.processPunctuation(one) for one in ten] if len(set(ten)) > 1 else ten
    found = {}
    for text, given in made.items():
        parts = []
        for at in range(len(known)):
            others = [one for other, one in enumerate(known) if other != at]
            parts.append(min(1.0, sum(one == given for one in others) / 3))
        found[text] = sum(parts) / len(parts)
    return found


if __name__ == "__main__":
    print(json.dumps({"captions": captions(Path(sys.argv[1])), "vqa": answers()}, indent=1))
