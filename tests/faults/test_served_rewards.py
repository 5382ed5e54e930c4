"""A server on loopback that rewards answers: what it is told, and what is said of one that does not do as it should."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from luthier.evaluate import asking
from luthier.evaluate.rewards import Answer, Reward, judge, served
from luthier.tasks.reinforce import Options
from luthier.types import Refused


class Lengths:
    """Rewards an answer by its length, unless ``says`` something else."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.says: Any = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.told.append(told)
                made = {"rewards": [len(one) for one in told["answers"]]} if outer.says is None else outer.says
                body = json.dumps(made).encode()
                self.send_response(outer.statuses.pop() if outer.statuses else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/score"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lengths]:
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    made = Lengths()
    yield made
    made.http.shutdown()
    made.http.server_close()


ASKED = [
    Answer([{"role": "user", "content": "How long?"}], text, wanted, f"rows.jsonl:{at}")
    for at, (text, wanted) in enumerate([("one", "3"), ("three", "5")], 1)
]


def test_a_server_rewards_answers(server: Lengths) -> None:
    """Once for all answers, with prompts and what is expected; what may pass is tried again."""
    server.statuses = [503]
    rewards = [Reward("server", 2.0, served(server.url))]
    assert [one.total for one in judge(rewards, ASKED)] == [6.0, 10.0]
    turn = [{"role": "user", "content": "How long?"}]
    assert server.told == 2 * [{"prompts": [turn, turn], "answers": ["one", "three"], "expected": ["3", "5"]}]


@pytest.mark.parametrize(
    ("says", "status", "code", "told"),
    [
        ({"score": [1, 2]}, 200, "reinforce.reward-server", "has no `rewards`"),
        ([1, 2], 200, "reinforce.reward-server", "has no `rewards`"),
        ({"rewards": [1]}, 200, "reinforce.reward-count", "1 numbers for 2 answers"),
        ({"rewards": [1, None]}, 200, "reinforce.reward-value", "is None for the answer 'three'"),
        ({"rewards": [float("nan"), 1]}, 200, "reinforce.reward-value", "is nan for the answer 'one'"),
        ({"error": "no such path"}, 404, "reinforce.reward-server", "/score says 404"),
    ],
)
def test_what_is_no_reward_is_told(server: Lengths, says: Any, status: int, code: str, told: str) -> None:
    server.says, server.statuses = says, [status]
    with pytest.raises(Refused) as refused:
        judge([Reward("server", 1.0, served(server.url))], ASKED)
    (finding,) = refused.value.findings
    assert finding.code == code
    assert told in finding.what


def test_a_server_that_is_not_there_is_told(server: Lengths) -> None:
    gone = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    gone.server_close()
    with pytest.raises(Refused, match="no answer") as refused:
        judge([Reward("server", 1.0, served(f"http://127.0.0.1:{gone.server_address[1]}"))], ASKED)
    assert refused.value.findings[0].code == "reinforce.reward-server"


def test_it_is_written_as_an_address() -> None:
    Options.model_validate({"rewards": [{"server": "http://127.0.0.1:9000/score", "weight": 0.5}]})
    with pytest.raises(ValueError, match=r"write \{server: http://\.\.\.\}"):
        Options.model_validate({"rewards": [{"server": "127.0.0.1:9000"}]})
