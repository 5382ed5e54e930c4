"""What a server says, in JSON or as text: by the standard library alone, with no proxy and no key."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

TRIES, PAUSE = 3, 1.0
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Unanswered(Exception):
    """Says why there is no answer; ``late``: there was none in time."""

    def __init__(self, why: str, *, late: bool = False):
        super().__init__(why)
        self.late = late


def ask(url: str, told: Any = None, *, timeout: float, tries: int = TRIES) -> Any:
    """The answer to a GET, or to a POST of ``told`` as JSON, within ``timeout`` seconds. What may pass (no connection,
    5xx) is tried again. Raises Unanswered."""
    body = None if told is None else json.dumps(told).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    for tried in range(1, tries + 1):
        try:
            with OPEN(request, timeout=timeout) as response:
                return _read(response.read())
        except urllib.error.HTTPError as error:
            if error.code < 500 or tried == tries:
                said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
                raise Unanswered(f"{request.selector} says {error.code}: {said}") from None
        except TimeoutError:
            raise Unanswered(f"no answer within {timeout:g} s", late=True) from None
        except (OSError, ValueError) as error:
            if tried == tries:
                raise Unanswered(f"no answer: {error}") from None
        time.sleep(PAUSE * tried)
    raise AssertionError


def _read(body: bytes) -> Any:
    return json.loads(body) if body[:1] in (b"{", b"[") else body.decode("utf-8", "replace")
