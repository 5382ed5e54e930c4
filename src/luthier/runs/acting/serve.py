"""``luthier serve``: a policy over HTTP, on this machine's own address alone.

    POST /act  {"instruction": "go to the red ball", "image": "<base64 of a PNG or JPEG file>", "state": [0.1, ...]}
        -> {"action": "left", "probabilities": {...}}  or  {"action": [...], "chunk": [[...], ...]}
    GET /      -> {"run", "predicts", "actions", "units", "chunk"}

Where the policy sees frames of the past, ``images`` holds them, the oldest first. What is wrong with an observation
comes back as findings, with status 400. Nothing is kept between calls.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from luthier.runs.acting.policy import Policy, open_policy
from luthier.types import Finding, Refused

LARGEST = 32 * 2**20  # bytes of a request
HOST = "127.0.0.1"


def serve(run: str, port: int, ready: Callable[[str], None]) -> None:
    """Until it is interrupted. ``ready`` is told the address. Raises Refused where the run or the port can't be had."""
    policy = open_policy(run)
    with server(policy, port) as made:
        ready(f"http://{HOST}:{made.server_address[1]}")
        with contextlib.suppress(KeyboardInterrupt):
            made.serve_forever()


def server(policy: Policy, port: int) -> ThreadingHTTPServer:
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200 if self.path == "/" else 404, _about(policy) if self.path == "/" else {"error": "POST /act"})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/act" or not 0 < length <= LARGEST:
                self._say(404 if self.path != "/act" else 413, {"error": f"POST /act, of at most {LARGEST} bytes"})
                return
            try:
                given = observation(json.loads(self.rfile.read(length)), policy.options.history)
                with one_at_a_time:
                    (answer,) = policy.predictor.answers([given])
                self._say(200, answer)
            except Refused as refused:
                self._say(400, {"findings": [vars(finding) for finding in refused.findings]})
            except ValueError as error:
                self._say(400, {"error": f"this is no JSON: {error}"})

        def _say(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        what = f"port {port} can't be had: {error}"
        raise Refused(Finding("act.port", "--port", what, "give another, or 0 for a free one")) from None


def observation(given: Any, history: int) -> dict[str, Any]:
    """The row that a request stands for, pictures as bytes. Raises Refused."""
    if not isinstance(given, dict):
        raise Refused(Finding("data.type", "request", "an observation is an object", "give image, instruction, state"))
    row = {name: given[name] for name in ("instruction", "state", "units") if given.get(name) is not None}
    pictures = given.get("images", [given["image"]] if "image" in given else [])
    seen = [
        _bytes(one, f"image[{at}]") for at, one in enumerate(pictures if isinstance(pictures, list) else [pictures])
    ]
    if history == 1:
        return row | ({"image": seen} if seen else {})
    shared = {"state": row.pop("state")} if "state" in row else {}
    return row | {"trajectory": [{"image": one} | shared for one in seen[-history:]] or [shared]}


def _bytes(given: Any, where: str) -> bytes:
    try:
        return base64.b64decode(str(given), validate=True)
    except (binascii.Error, ValueError):
        what = "a picture is the base64 of a file"
        raise Refused(Finding("data.type", where, what, "encode a PNG or JPEG file")) from None


def _about(policy: Policy) -> dict[str, Any]:
    known = policy.predictor.task.known
    actions: Any = known.labels or (len(known.action) if known.action else 0)
    return {"run": str(policy.run.folder), "predicts": known.predicts, "actions": actions, "units": known.units,
            "chunk": policy.options.chunk, "history": policy.options.history}  # fmt: skip
