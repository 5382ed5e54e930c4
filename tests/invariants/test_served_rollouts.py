"""Answers by a server on loopback with the same tiny model: what it is told, what is measured, what is refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import asked_rows, reinforced, source
from peft import PeftModel
from transformers import AutoModelForCausalLM

import luthier
import tiny
from luthier.engine.checkpoint import latest
from luthier.evaluate import asking
from luthier.objectives.online import GAP, OLD
from luthier.types import Refused

SOME = {"group_size": 3, "max_new_tokens": 6}
END = 1
Change = Callable[[dict[str, Any]], Any]


class Tiny:
    """An OpenAI-compatible server of a model, as vLLM answers; ``change`` may spoil a choice, or give a whole body."""

    def __init__(self, folder: str):
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.folder, self.lock, self.adapters = folder, threading.Lock(), {"base": self.model}
        self.asked: list[dict[str, Any]] = []
        self.failing: list[int] = []
        self.change: Change = lambda choice: None
        self.wait = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply({"data": [{"id": "base"}]})

            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    if outer.failing:
                        self.reply({"error": "not now"}, outer.failing.pop())
                        return
                    self.reply(*outer.answered(self.path, told))

            def reply(self, told: Any, status: int = 200) -> None:
                body = told if isinstance(told, bytes) else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def answered(self, path: str, told: dict[str, Any]) -> tuple[Any, int]:
        if path == "/v1/load_lora_adapter":
            base = AutoModelForCausalLM.from_pretrained(self.folder)
            self.adapters[told["lora_name"]] = PeftModel.from_pretrained(base, told["lora_path"]).eval()
            return b"Success", 200
        if path == "/v1/unload_lora_adapter":
            del self.adapters[told["lora_name"]]
            return b"Success", 200
        self.asked.append(told)
        time.sleep(self.wait)
        ids, logs = self.drawn(told)
        choice = {
            "finish_reason": "stop" if ids[-1] == END else "length", "token_ids": ids, "text": "",
            "logprobs": {"tokens": [f"token_id:{one}" for one in ids], "token_logprobs": logs},
        }  # fmt: skip
        spoiled = self.change(choice)
        return {"choices": [choice]} if spoiled is None else spoiled, 200

    @torch.no_grad()
    def drawn(self, told: dict[str, Any]) -> tuple[list[int], list[float]]:
        """Token by token, without a cache, with transformers' (and PEFT's) own forward pass."""
        draw, ids, logs = torch.Generator().manual_seed(told["seed"]), list(told["prompt"]), []
        while len(logs) < told["max_tokens"] and (not logs or ids[-1] not in told["stop_token_ids"]):
            logits = self.adapters[told["model"]](input_ids=torch.tensor([ids])).logits[0, -1] / told["temperature"]
            found = logits.log_softmax(-1)
            ids.append(int(torch.multinomial(found.exp(), 1, generator=draw)))
            logs.append(float(found[ids[-1]]))
        return ids[len(told["prompt"]) :], logs


@pytest.fixture
def server(tiny_folder: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    made = Tiny(tiny_folder("llama"))
    yield made
    made.http.shutdown()
    made.http.server_close()


def trial(server: Tiny, folder: Path, objective: str = "grpo", told: Any = (), **keys: Any) -> Any:
    options = {"server": {"url": server.url, "model": "base", "timeout": 20, **dict(told)}}
    keys.setdefault("rows", 3)
    more = {"epochs": 1} if objective == "ppo" else {}
    return reinforced(objective, SOME | options | more, server.folder, folder, **keys)


@pytest.mark.parametrize("objective", ["grpo", "ppo"])
def test_step_by_step_it_writes_with_the_weights_of_that_step(objective: str, server: Tiny, tmp_path: Path) -> None:
    made = trial(server, tmp_path, objective, **{objective: {"temperature": 0.8}})
    records = made.fit(steps=3, learning_rate=3e-2).records
    assert [record["kl"] for record in records[:1]] == pytest.approx([0], abs=1e-7)
    assert records[0]["ratio"] == pytest.approx(1, abs=1e-6)
    assert records[2]["kl"] > 1e-4, "the adapter moved"
    assert all(0 < record["gap"] < 2e-5 for record in records)
    assert all(record["gap"] <= record["gap_max"] < 2e-4 for record in records)
    assert list(server.adapters) == ["base"], "what was handed over is taken back"
    assert not list((tmp_path / ".cache").glob("served-*/*"))


def test_what_it_is_asked_and_what_is_learned(server: Tiny, tmp_path: Path) -> None:
    """Prompts as tokens, a seed for each answer; its answers are the rows, its log-probabilities those of the gap."""
    made = trial(server, tmp_path)
    rollouts, drawn = source(made), made.prepared.train.rows
    rows = rollouts.rows(0, drawn)
    asked = {told["seed"]: told for told in server.asked}
    assert len(asked) == len(rows) == 3 * len(drawn)
    assert {tuple(told["prompt"]) for told in server.asked} == {tuple(r["input_ids"][: r["prompt"]]) for r in drawn}
    first = server.asked[0]
    assert (first["temperature"], first["top_p"], first["top_k"], first["max_tokens"]) == (1.0, 1.0, -1, 6)
    assert END in first["stop_token_ids"]
    drawn_again = [(told["prompt"], *server.drawn(told | {"model": "base"})) for told in server.asked]
    again = {(*prompt, *ids): logs for prompt, ids, logs in drawn_again}
    for row in rows:
        assert row[OLD] - row[GAP] == pytest.approx(torch.tensor(again[tuple(row["input_ids"])]), abs=1e-5)
    groups = [{tuple(row["input_ids"]) for row in rows[at : at + 3]} for at in range(0, len(rows), 3)]
    assert max(map(len, groups)) > 1, "answers of a group differ"


def test_a_server_with_other_weights_is_refused_or_weighed(server: Tiny, tmp_path: Path) -> None:
    """It is never given the adapter, and another model answers: above the gap the run stops before a step; where that
    much is allowed, the gap is there, and no token weighs more than the cap."""
    with torch.no_grad():
        for parameter in server.model.parameters():
            parameter.mul_(1.2)
    made = trial(server, tmp_path, told={"adapter": False})
    with pytest.raises(Refused) as refused:
        made.fit()
    assert [(one.code, one.where) for one in refused.value.findings] == [("reinforce.server-gap", "grpo.server.gap")]
    made = trial(server, tmp_path, told={"adapter": False, "gap": 50.0, "cap": 1.5})
    rows = source(made).rows(0, made.prepared.train.rows)
    gaps = torch.cat([row[GAP] for row in rows])
    assert gaps.abs().max() > 0.5
    weights = made.prepared.objective.weights(gaps)
    assert float(weights.max()) == 1.5
    assert torch.equal(weights[gaps < 0], gaps[gaps < 0].exp())
    assert made.fit().records[0]["gap"] > 0.5


def test_in_the_middle_of_its_steps_a_run_goes_on_with_the_same_bits(server: Tiny, tmp_path: Path) -> None:
    how = {"batch_size": 2, "steps": 4, "learning_rate": 1e-2}
    keys: dict[str, Any] = {"grpo": {"iterations": 2}}
    whole = trial(server, tmp_path, **keys).fit(save_every=1, keep=9, **how)
    found, _ = latest(whole.folder, "hash", step=3)
    resumed = trial(server, tmp_path, **keys).fit(resume=found, folder=tmp_path / "on", **how)
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())
    assert whole.records[3]["gap"] == resumed.records[0]["gap"]


def without(*names: str) -> Change:
    return lambda choice: [choice.pop(name) for name in names] and None


def put(**values: Any) -> Change:
    def change(choice: dict[str, Any]) -> None:
        choice.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda choice: {"choices": []}, "one answer was asked for, and 0 came"),
        (lambda choice: {"choices": [choice, choice]}, "and 2 came"), (lambda choice: b"hello", "and 0 came"),
        (without("logprobs"), "without the log-probabilities"),
        (lambda choice: {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}}]},
         "without the tokens"),
        (put(token_ids=[9, 10, 11, 12, 13]), "an answer has 5 tokens"), (put(token_ids=[]), "an answer has 0 tokens"),
        (lambda choice: {"choices": [{"token_ids": [9] * 7, "logprobs": {"token_logprobs": [-1.0] * 7}}]},
         "7 tokens of at most 6"),
        (lambda choice: {"choices": [{"token_ids": [99999], "logprobs": {"token_logprobs": [-1.0]}}]}, "another model"),
        (lambda choice: {"choices": [{"token_ids": [9], "logprobs": {"token_logprobs": [float("nan")]}}]}, "no finite"),
        (lambda choice: {"choices": [{"token_ids": [9], "logprobs": {"token_logprobs": [0.5]}}]}, "no finite"),
        (lambda choice: {"choices": [{"token_ids": [END, 9], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]},
         "goes on after"),
        (lambda choice: {"choices": [
            {"token_ids": [9], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}]}, "was left out"),
    ],
)  # fmt: skip
def test_what_is_no_answer_stops_before_a_step(change: Change, told: str, server: Tiny, tmp_path: Path) -> None:
    made = trial(server, tmp_path, rows=1)
    server.change = change
    records: list[dict[str, Any]] = []
    with pytest.raises(Refused, match=told) as refused:
        made.fit(records=records)
    assert {(one.code, one.where) for one in refused.value.findings} == {("reinforce.server", "grpo.server")}
    assert not any(record["kind"] == "train" for record in records)
    assert all(torch.equal(value, made.start[name]) for name, value in made.prepared.adaptation.parameters.items())


def test_tokens_may_come_with_their_log_probabilities(server: Tiny, tmp_path: Path) -> None:
    server.change = without("token_ids")
    made = trial(server, tmp_path, rows=1)
    assert made.fit().records[0]["gap"] < 2e-5


def test_what_may_pass_is_tried_again(server: Tiny, tmp_path: Path) -> None:
    made = trial(server, tmp_path, rows=1)
    server.failing = [503, 500]
    assert made.fit().records[0]["gap"] < 2e-5
    server.failing = [503] * 99
    with pytest.raises(Refused, match=r"says 503: .*not now"):
        made.fit()
    server.failing = [404]
    with pytest.raises(Refused, match="says 404"):
        made.fit()


def test_an_answer_that_takes_too_long_is_told(server: Tiny, tmp_path: Path) -> None:
    made = trial(server, tmp_path, rows=1, told={"timeout": 0.3})
    server.wait = 1.0
    with pytest.raises(Refused, match=r"no answer within 0\.3 s"):
        made.fit()


@pytest.mark.parametrize(
    ("keys", "code", "told"),
    [
        ({"model": "other"}, "reinforce.server", "no model 'other'"),
        ({"url": "http://127.0.0.1:9/v1"}, "reinforce.server", "no answer"),
        ({"method": "full"}, "reinforce.server", "given a LoRA adapter"),
        ({"url": "127.0.0.1"}, "recipe.value", "pattern"), ({"modle": "base"}, "recipe.unknown-key", "modle"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_before(
    keys: dict[str, Any], code: str, told: str, server: Tiny, tmp_path: Path
) -> None:
    data = tiny.write_jsonl(tmp_path / "rows.jsonl", asked_rows(8))
    method = keys.pop("method", "lora")
    findings, _ = luthier.check(
        task="reinforce", model=server.folder, data=data, method=method,
        grpo={**SOME, "server": {"url": server.url, "model": "base", **keys}},
    )  # fmt: skip
    errors = [one for one in findings if one.severity == "error"]
    assert code in [one.code for one in errors]
    assert told in " ".join(map(str, errors))
