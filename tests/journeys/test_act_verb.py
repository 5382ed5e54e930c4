"""Acting with the real command: demonstrations, a policy, the closed loop beside expert and chance, and over HTTP."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typed import REPOSITORY, session

import luthier
from luthier.data.formats.choose import read_examples
from luthier.environments.world import Observation
from luthier.runs.acting.closed_loop import rollout
from luthier.runs.acting.policy import Memory, Policy
from luthier.types import Refused

pytest.importorskip("minigrid")
LEVEL = "BabyAI-GoToRedBallGrey-v0"
GRID = REPOSITORY / "src/luthier/recipes/data/grid"
MODEL = {"image": str(GRID / "eyes"), "text": str(GRID / "reader"), "init": "random", "fuse": "cross_attention"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("act")


@pytest.fixture(scope="module")
def run(folder: Path) -> str:
    """A policy that has seen a few episodes; what it is told is always the same."""
    made = luthier.tune(
        task="act", model=MODEL, data={"train": f"minigrid:{LEVEL}:12@50", "eval": 0}, method="full", steps=4,
        batch_size=16, out=str(folder / "runs"), name="policy",
    )  # fmt: skip
    return str(made.folder)


def test_demonstrations_are_what_a_path_of_data_reads(folder: Path) -> None:
    (made,) = session(folder, f"demonstrate {LEVEL} --episodes 3 --seed 7 --to demos --json")
    assert made.code == 0, made.err
    assert (made.json["episodes"], made.json["file"]) == (3, "demos/episodes.jsonl")
    written = read_examples("demos/episodes.jsonl", base=folder, prefer=("episode",))
    on_the_spot = read_examples(f"minigrid:{LEVEL}:3@7", base=folder, prefer=("episode",))
    assert written.findings + on_the_spot.findings == []
    for one, other in zip(written.examples, on_the_spot.examples, strict=True):
        assert (one.text, one.steps) == (other.text, other.steps)
        assert [image.read_bytes() for image in one.images or []] == other.images
    again, strange = session(folder, f"demonstrate {LEVEL} --to demos", "demonstrate CartPole-v1 --to other")
    assert (again.code, strange.code) == (2, 2)
    assert "act.no-expert" in strange.out + strange.err


def test_the_closed_loop_tells_policy_expert_and_chance(run: str, folder: Path) -> None:
    one, two = session(
        folder, f"rollout {run} --env {LEVEL} --episodes 3 --seed 3 --record 2 --to one --json",
        f"rollout {run} --env {LEVEL} --episodes 3 --seed 3 --to two --alone --json",
    )  # fmt: skip
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert one.json["expert"]["success"]["value"] == 1.0
    assert set(one.json["success"]) == {"value", "low", "high", "n"}
    assert "expert" not in two.json
    lines = [[json.loads(line) for line in (folder / name / f"rollout-{LEVEL}.jsonl").read_text().splitlines()]
             for name in ("one", "two")]  # fmt: skip
    assert lines[0] == lines[1]  # the same seeds, the same episodes
    assert [line["seed"] for line in lines[0]] == [3, 4, 5]
    from PIL import Image

    with Image.open(folder / one.json["recording"]) as recording:
        assert recording.n_frames == sum(line["steps"] + 1 for line in lines[0][:2])


def test_what_can_not_be_rolled_out_is_refused(run: str, folder: Path) -> None:
    answers = session(
        folder, f"rollout {run} --env Nothing-v0", f"rollout {run} --env {LEVEL} --execute 3",
        f"rollout {run} --env {LEVEL} --ensemble", f"rollout {run} --env {LEVEL} --episodes 0",
        f"rollout {run} --env MountainCar-v0 --episodes 1 --alone",
    )  # fmt: skip
    codes = ["act.environment", "act.execute", "act.execute", "act.episodes", "act.actions"]
    assert [answer.code for answer in answers] == [2] * len(codes)
    for answer, code in zip(answers, codes, strict=True):
        assert code in answer.out + answer.err, answer.out + answer.err


def test_a_policy_that_heeds_no_instruction_is_refused(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(run) / "result.json"
    told = json.loads(file.read_text())
    before = file.read_text()
    told["after"] = {"changed_by_instruction": {"value": 0.0, "n": 9}}
    file.write_text(json.dumps(told))
    try:
        with pytest.raises(Refused, match="instruction-blind"):
            rollout(run, LEVEL, episodes=1, beside=False)
    finally:
        file.write_text(before)


@pytest.mark.slow
def test_a_policy_follows_its_instruction(folder: Path) -> None:
    """The recipe `act-instruction` with two thirds of its demonstrations. Blind to the words one can do as the expert
    does at 0.84 of all steps; told one thing whatever the world asks for, the very policy succeeds less often."""
    level = "BabyAI-GoToLocalS5N2-v0"
    recipe = REPOSITORY / "src/luthier/recipes/act-instruction.yaml"
    rows = f"minigrid:{level}:2000@1000000"
    given = {"data.train": rows, "data.eval": 0.1, "out": folder / "runs", "name": "listens"}
    made = luthier.tune(recipe, [f"{key}={value}" for key, value in given.items()])
    after = made.result["after"]
    assert after["accuracy"]["value"] > 0.86
    assert after["changed_by_instruction"]["value"] > 0.1
    own = rollout(str(made.folder), level, episodes=100, beside=False)
    other = rollout(str(made.folder), level, episodes=100, beside=False, instruction="go to the red ball")
    assert own["success"]["low"] > other["success"]["value"]


def post(address: str, given: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{address}/act", json.dumps(given).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_server_answers_as_predict_does(run: str) -> None:
    from luthier.environments.world import World, png
    from luthier.runs.acting.policy import open_policy
    from luthier.runs.acting.serve import server

    policy = open_policy(run)
    pixels = World(LEVEL).reset(1).pixels
    picture = base64.b64encode(png(pixels)).decode()
    with server(policy, 0) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{made.server_address[1]}"
        status, answer = post(address, {"instruction": "go to the red ball", "image": picture})
        (expected,) = luthier.load(run).predict([{"instruction": "go to the red ball", "image": png(pixels)}])
        assert (status, answer["action"]) == (200, expected["action"])
        assert answer["probabilities"] == pytest.approx(expected["probabilities"])
        assert post(address, {"image": "no base64!"})[0] == 400
        assert post(address, {"instruction": "go"})[0] == 400
        assert post(address, [1])[0] == 400
        with urllib.request.urlopen(address) as about:
            assert json.loads(about.read())["predicts"] == "classes"
        made.shutdown()


class Told:
    """A task whose chunks are written down, one for each time that it is asked."""

    predicts, known = "regression", type("Known", (), {"state": None})

    def __init__(self, chunks: list[list[list[float]]]):
        self.chunks, self.asked = chunks, 0

    def answer(self, ask: Any, examples: list[Any]) -> list[dict[str, Any]]:
        self.asked += 1
        chunk = self.chunks[self.asked - 1]
        return [{"action": chunk[0], "chunk": chunk}] * len(examples)


def policy_of(chunks: list[list[list[float]]], *, execute: int, ensemble: bool = False) -> tuple[Policy, Told]:
    made, task = Policy.__new__(Policy), Told(chunks)
    made.predictor = type("Ask", (), {"task": task})()  # type: ignore[assignment]
    made.options = type("Options", (), {"chunk": 3, "history": 1})
    made.execute, made.ensemble, made.named, made.temperature = execute, ensemble, False, 0.0
    return made, task


def test_chunks_are_carried_out_or_averaged() -> None:
    """Chunks (1 2 3), (10 20 30), (100 ..). Two actions of each: 1 2 10 20, asked twice. Averaged: 1; then 2 and 10
    with weights 1 and e^-0.01 (the oldest weighs most); then 3, 20 and 100 with 1, e^-0.01, e^-0.02."""
    import numpy as np

    seen, chunks = [Observation(np.zeros((8, 8, 3), np.uint8))], [[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]],
                                                                  [[100.0], [200.0], [300.0]]]  # fmt: skip
    policy, task = policy_of(chunks, execute=2)
    memory = Memory()
    assert [policy(seen, [memory])[0] for _ in range(4)] == [[1.0], [2.0], [10.0], [20.0]]
    assert task.asked == 2
    policy, task = policy_of(chunks, execute=3, ensemble=True)
    memory = Memory()
    w = np.exp(-0.01 * np.arange(3))
    expected = [1.0, (2 + 10 * w[1]) / (1 + w[1]), (3 + 20 * w[1] + 100 * w[2]) / w.sum()]
    assert [policy(seen, [memory])[0][0] for _ in range(3)] == pytest.approx(expected)


def test_names_are_drawn_by_an_episodes_own_seed() -> None:
    """Probabilities 1/5 and 4/5 at temperature 1/2: squared, 1/17 and 16/17. The same seed draws the same."""
    policy, _ = policy_of([], execute=1)
    policy.temperature = 0.5
    answer = {"action": "left", "probabilities": {"right": 0.2, "left": 0.8}}
    memory, again = Memory(3), Memory(3)
    drawn = [policy._named(answer, memory) for _ in range(4000)]
    assert drawn.count("right") / 4000 == pytest.approx(1 / 17, abs=0.012)
    assert drawn == [policy._named(answer, again) for _ in range(4000)]
    assert [policy_of([], execute=1)[0]._named(answer, memory) for _ in range(3)] == ["left"] * 3
