"""Episodes by hand: rows and what is wrong with them, what a step sees, how numbers are scaled, LeRobot's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from luthier.data.formats.choose import read_examples, recognise, to_example
from luthier.data.statistics import Known, Scale, read_known
from luthier.tasks.actions import Reading, asked_steps, chunk_of, foreign_units
from luthier.types import Example, Finding, Refused, Source, Step

SOURCE = Source("a.jsonl", 7)


def converted(row: dict[str, Any]) -> Example | list[Finding]:
    assert recognise([(SOURCE, row)]) == "episode"
    return to_example(SOURCE, row, "episode")


def test_a_row_becomes_its_steps() -> None:
    steps = [{"image": ["0.png", b"png"], "state": [1, 2.5], "action": [0.5]},
             {"image": ["1.png", "h1.png"], "state": [1, 3], "action": [-0.5]}]  # fmt: skip
    example = converted({"instruction": "lift it", "units": "m", "trajectory": steps})
    assert isinstance(example, Example)
    assert (example.text, example.units) == ("lift it", "m")
    assert example.images == [Path("0.png"), b"png", Path("1.png"), Path("h1.png")]
    assert example.steps == [Step((0, 1), (1.0, 2.5), (0.5,)), Step((2, 3), (1.0, 3.0), (-0.5,))]
    named = converted(
        {"mission": "go", "frames": [{"image": "0.png", "action": "left"}, {"image": "1.png", "action": 2}]}
    )
    assert isinstance(named, Example)
    assert named.steps == [Step((0,), None, "left"), Step((1,), None, "2")]


GOOD = {"image": "0.png", "state": [1, 2], "action": [0.5, 1]}


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([], [("data.type", "trajectory")]),
        ("left", [("data.type", "trajectory")]),
        ([GOOD, 4], [("data.type", "trajectory[1]")]),
        ([{"image": "0.png"}], [("data.action", "trajectory[0].action")]),
        ([{"image": "0.png", "action": True}], [("data.action", "trajectory[0].action")]),
        ([{"action": "left"}], [("data.action", "trajectory[0]")]),
        ([GOOD | {"action": [0.5, float("nan")]}], [("data.action", "trajectory[0].action")]),
        ([GOOD | {"state": [1, "x"]}], [("data.action", "trajectory[0].state")]),
        ([GOOD | {"image": [3]}], [("data.type", "trajectory[0].image")]),
        ([GOOD, GOOD | {"action": "left"}], [("data.action", "trajectory[1].action")]),
        ([GOOD, GOOD | {"action": [1]}, GOOD | {"state": [1]}],
         [("data.action", "trajectory[1].action"), ("data.action", "trajectory[2].state")]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(steps: Any, found: list[tuple[str, str]]) -> None:
    findings = converted({"instruction": "go", "trajectory": steps})
    assert isinstance(findings, list), findings
    assert [(one.code, one.where) for one in findings] == [(code, f"a.jsonl:7:{at}") for code, at in found]


def episode(states: list[list[float]], actions: list[Any]) -> Example:
    steps = [Step((at,), tuple(state), action) for at, (state, action) in enumerate(zip(states, actions, strict=True))]
    return Example(SOURCE, text="go", images=[b"a", b"b", b"c"][: len(steps)], steps=steps)


def test_a_step_sees_frames_of_the_past_and_its_state_in_words() -> None:
    """The state's range is -1 to 3: 1 is scaled to 0, level ⌊(0 + 1) · 128⌋ = 128; 3 to 1, cut to 255; -1 to -1, 0."""
    scale = Scale((-1.0,), (3.0,), (-1.0,), (3.0,), (1.0,))
    example = episode([[1], [3], [-1]], ["left", "right", "left"])
    reading = Reading(2, scale)
    assert [reading.seen(example, at).text for at in range(3)] == ["go state: 128", "go state: 255", "go state: 0"]
    assert [reading.seen(example, at).images for at in range(3)] == [[b"a", b"a"], [b"a", b"b"], [b"b", b"c"]]
    assert Reading(1, None).seen(example, 2).text == "go"
    assert asked_steps(example) == [0, 1, 2]
    assert asked_steps(episode([[1], [3]], [None, None])) == [1]


def test_a_chunk_ends_with_its_episode() -> None:
    """Numbers 0 to 4 in a range of 0 to 4: scaled by y = x/2 - 1. Past the end nothing is known."""
    example = episode([[0], [0], [0]], [(0.0,), (4.0,), (2.0,)])
    scale = Scale.of([(0.0,), (4.0,)])
    assert scale.low[0] == pytest.approx(0.04)  # the quantile 0.01 of two numbers
    scale = Scale((0.0,), (4.0,), (0.0,), (4.0,), (2.0,))
    assert chunk_of(example, 0, 2, scale) == [-1.0, 1.0]
    assert str(chunk_of(example, 1, 3, scale)) == "[1.0, 0.0, nan]"


def test_numbers_come_back_and_a_constant_stays_what_it_is() -> None:
    scale = Scale((0.0, 7.0), (10.0, 7.0), (0.0, 7.0), (10.0, 7.0), (5.0, 7.0))
    assert scale.scaled([7.5, 7.0]).tolist() == [0.5, 0.0]
    assert scale.unscaled([0.5, 0.0]).tolist() == [7.5, 7.0]


def test_other_units_are_seen_by_their_size() -> None:
    """Radians of up to 1.5: degrees are 57 times as much. Metres of up to 0.5: millimetres are, and metres for
    millimetres all but stand still. A gripper that stays closed for an episode is no other unit."""
    radians = [(0.1 * at - 0.8, float(at % 2)) for at in range(17)]
    known = Known("regression", units="rad", action=Scale.of(radians))

    def found(values: list[tuple[float, ...]], units: str | None = None) -> set[str]:
        example = episode([[0.0]] * 3, [(0.0,)] * 3)
        example.steps = [Step((), None, value) for value in values]
        example.units = units
        return {finding.code for finding in foreign_units([example], known)}

    assert found(radians) == set()
    assert found([(value, 1.0) for value, _ in radians[:10]]) == set()
    assert found([(57.3 * value, grip) for value, grip in radians]) == {"data.units"}
    assert found([(value / 1000, grip / 1000) for value, grip in radians]) == {"data.units"}
    assert found(radians, "deg") == {"data.units"}
    assert found([(value,) for value, _ in radians]) == {"data.action-size"}


def test_statistics_are_kept_and_a_run_without_them_is_refused(tmp_path: Path) -> None:
    known = Known("bins", units="m", action=Scale.of([(0.0, 1.0), (2.0, 3.0)]), state=Scale.of([(1.0,), (4.0,)]))
    known.save(tmp_path)
    assert read_known(tmp_path) == known
    file = tmp_path / "actions.json"
    told = json.loads(file.read_text())
    told["action"]["low"].pop()
    for text in (json.dumps(told), "{}", "no json"):
        file.write_text(text)
        with pytest.raises(Refused, match=r"act\.no-statistics"):
            read_known(tmp_path)
    file.unlink()
    with pytest.raises(Refused, match=r"act\.no-statistics"):
        read_known(tmp_path)


def write_lerobot(folder: Path, version: str = "v3.0", length: int = 2, kind: str = "image") -> Path:
    """Two episodes of two frames as LeRobot 3 lays them out: a camera, a state and an action of two numbers."""
    import pyarrow
    import pyarrow.parquet

    picture = tiny.save_picture(folder / "red.png", "red").read_bytes()
    frames = [
        {"observation.images.top": {"bytes": picture, "path": "x.png"}, "observation.state": [0.1 * at, 1.0],
         "action": [0.5 * at, -1.0], "episode_index": at // 2, "frame_index": at % 2, "index": at,
         "timestamp": 0.1 * (at % 2), "task_index": at // 2}
        for at in reversed(range(4))
    ]  # fmt: skip
    tables = {
        "data/chunk-000/file-000.parquet": frames,
        "meta/tasks.parquet": [{"task_index": at, "task": f"task {at}"} for at in range(2)],
        "meta/episodes/chunk-000/file-000.parquet": [{"episode_index": 0, "length": 2},
                                                     {"episode_index": 1, "length": length}],
    }  # fmt: skip
    for name, rows in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    features = {"observation.images.top": {"dtype": kind}, "observation.state": {"dtype": "float32"},
                "action": {"dtype": "float32", "names": ["x", "y"]}}  # fmt: skip
    info = {"codebase_version": version, "fps": 10, "features": features}
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def test_a_lerobot_data_set_is_read_episode_by_episode(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_lerobot(tmp_path / "set")
    read = read_examples("set", base=tmp_path, prefer=("episode",))
    assert (read.findings, read.format, read.rows_read) == ([], "episode", 2)
    first, second = read.examples
    assert (first.text, second.text, second.units) == ("task 0", "task 1", "x, y")
    assert [step.action for step in (second.steps or [])] == [(1.0, -1.0), (1.5, -1.0)]
    assert [step.state and step.state[0] for step in (first.steps or [])] == [0.0, pytest.approx(0.1)]
    assert all(isinstance(one, bytes) for one in first.images or [])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": "v2.1"}, "data.lerobot-version"), ({"length": 5}, "data.malformed"),
        ({"kind": "video"}, "data.needs-extra"),
    ],
)  # fmt: skip
def test_a_lerobot_data_set_that_can_not_be_read_says_why(changes: dict[str, Any], code: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    if "kind" in changes:
        try:
            import av  # noqa: F401

            pytest.skip("PyAV is installed")
        except ImportError:
            pass
    read = read_examples(str(write_lerobot(tmp_path, **changes)), base=tmp_path, prefer=("episode",))
    assert [finding.code for finding in read.findings] == [code]
