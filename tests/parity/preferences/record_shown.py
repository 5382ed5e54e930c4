"""Record losses and gradients of TRL's trainers on preferences about pictures. Not run by the tests: TRL is not among
what they need.

python tests/parity/preferences/record_shown.py    # with trl 1.16 installed; writes shown.json beside it

As ``record.py``, of a vision-language model: each case also says which pictures each row shows.
"""

from __future__ import annotations

import io
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import record
import seer
from PIL import Image
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

MARK = seer.MARK
PAIRS = [
    {"prompt": f"{MARK}red cat and the", "chosen": " old dog", "rejected": " small green bird house", "shown": [0]},
    {"prompt": f"the {MARK} and {MARK} river", "chosen": " new tree and red", "rejected": " blue", "shown": [1, 2]},
    {"prompt": f"a {MARK}", "chosen": " house blue river", "rejected": " cat cat", "shown": [0]},
]
THUMBS = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen", "shown": row["shown"]}
    for row, side in zip(PAIRS, ("chosen", "rejected", "chosen"), strict=True)
]


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    cases: list[dict[str, Any]] = []
    for name, options in (
        ("dpo", {"loss_type": ["sigmoid"], "beta": 0.3}),
        ("dpo-normalized", {"loss_type": ["sigmoid_norm"], "beta": 2.0}),
        ("ipo", {"loss_type": ["ipo"], "beta": 0.3}),
    ):
        made = DPOTrainer(
            model=seer.build(0), ref_model=seer.build(1), args=record.config(DPOConfig, folder, **options),
            train_dataset=shown(PAIRS), processing_class=seer.processor(),
        )  # fmt: skip
        cases.append(told(name, made, record.both, PAIRS))
    made = KTOTrainer(
        model=seer.build(0), ref_model=seer.build(1),
        args=record.config(KTOConfig, folder, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5),
        train_dataset=shown(THUMBS), processing_class=seer.processor(),
    )  # fmt: skip
    cases.append(told("kto", made, record.single, THUMBS))
    text = json.dumps({"trl": version("trl"), "cases": cases})
    (record.HERE / "shown.json").write_text(text + "\n", encoding="utf-8")


def shown(rows: list[dict[str, Any]]) -> Any:
    made = []
    for row in rows:
        pictures = [Image.open(io.BytesIO(seer.picture(at))) for at in row["shown"]]
        made.append({key: value for key, value in row.items() if key != "shown"} | {"images": pictures})
    return datasets.Dataset.from_list(made)


def told(name: str, trainer: Any, rows: Any, given: list[dict[str, Any]]) -> dict[str, Any]:
    """The trainer shuffles its rows: which is which is told by how many tokens stand before the answer."""
    case = {"case": name, **record.ask(trainer, rows)}
    tokenizer = seer.processor().tokenizer
    case["shown"] = []
    for first, *_ in case["rows"]:
        asked = tokenizer.decode(first["input_ids"][: first["supervised"].index(True)])
        while MARK * 2 in asked:
            asked = asked.replace(MARK * 2, MARK)
        (found,) = [row["shown"] for row in given if row["prompt"] == asked]
        case["shown"].append(found)
    return case


if __name__ == "__main__":
    main()
