"""A conversation as rows: one, or several where it is too long or where its template rewrites what was said before.

However it is cut, each row keeps the system turn, begins with a turn of the user's and is what the template writes of
its turns; every assistant turn that is to be learned is supervised in exactly one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.text.render import render
from luthier.data.text.template import Encoded, encode_chat, encode_spans
from luthier.types import Message, Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A text of more characters than this for each token of the limit is measured before its mask is made.
CHARACTERS_PER_TOKEN = 8

Exchange = tuple[int, int]
"""Turns [first, last) of a conversation: what the user says, and all up to where the user speaks again."""


@dataclass
class Rows:
    """``rows`` to learn from; ``too_long`` are exchanges that fit into none, by the index of their first turn.

    ``rewritten``: the template writes earlier turns otherwise once later ones come, so each exchange is a row.
    """

    rows: list[Encoded] = field(default_factory=list)
    too_long: list[tuple[int, Encoded]] = field(default_factory=list)
    rewritten: bool = False
    whole: int | None = None
    """The tokens of the conversation, where it was split."""

    @property
    def longest(self) -> int:
        return max((len(row.input_ids) for row in self.rows), default=0)


@dataclass(frozen=True)
class Dialogue:
    """A conversation that becomes rows of at most ``limit`` tokens; ``where`` names it in findings."""

    tokenizer: PreTrainedTokenizerBase
    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None
    train_on: Literal["all", "last"]
    limit: int
    where: str

    def rows(self, overlong: str) -> Rows:
        """``overlong``: "split" cuts at turns what is longer; a row that is to be cut anywhere ("truncate") or not at
        all is longer than the limit. Raises Refused as ``encode_chat`` does."""
        whole = self._rows(self.messages, self.where, measured=overlong != "truncate")
        return self._split(whole.longest) if overlong == "split" and whole.longest > self.limit else whole

    def _split(self, whole: int) -> Rows:
        exchanges = self._exchanges(self.messages)
        sizes = [self._cut([exchange]).longest for exchange in exchanges]
        made = Rows(whole=whole)
        for first, last in self._pieces(exchanges, sizes):
            found = self._cut(exchanges[first:last])
            made.rewritten = made.rewritten or found.rewritten
            if found.longest <= self.limit:
                made.rows += found.rows
            else:
                made.too_long.append((exchanges[first][0], max(found.rows, key=lambda row: len(row.input_ids))))
        return made

    def _pieces(self, exchanges: list[Exchange], sizes: list[int]) -> Iterator[tuple[int, int]]:
        """Ranges of exchanges that fit, as long as can be; where the last turn alone is learned, only that with it."""
        if self.train_on == "last":
            first = len(exchanges) - 1
            while first and sum(sizes[first - 1 :]) <= self.limit:
                first -= 1
            yield first, len(exchanges)
            return
        shared, first = self._shared(exchanges, sizes), 0
        while first < len(exchanges):
            last, used = first + 1, sizes[first]
            while last < len(exchanges) and used + sizes[last] - shared <= self.limit:
                used += sizes[last] - shared
                last += 1
            while last > first + 1 and self._cut(exchanges[first:last]).longest > self.limit:
                last -= 1
            yield first, last
            first = last

    def _shared(self, exchanges: list[Exchange], sizes: list[int]) -> int:
        """About how many tokens each row has that one row of all would have once, such as those of the system turn."""
        if len(exchanges) < 2 or sizes[0] + sizes[1] > CHARACTERS_PER_TOKEN * self.limit:
            return 0
        return max(0, sizes[0] + sizes[1] - self._cut(exchanges[:2]).longest)

    def _cut(self, exchanges: Sequence[Exchange]) -> Rows:
        lead = self._exchanges(self.messages)[0][0]
        first, last = exchanges[0][0], exchanges[-1][1]
        return self._rows([*self.messages[:lead], *self.messages[first:last]], f"{self.where}[{first}:]", measured=True)

    def _rows(self, messages: Sequence[Message], where: str, *, measured: bool) -> Rows:
        if measured and (long := self._far_too_long(messages, where)):
            return Rows([long])
        try:
            encoded = encode_chat(self.tokenizer, messages, tools=self.tools, train_on=self.train_on, where=where)
            return Rows([encoded])
        except Refused as refused:
            if self.train_on == "last" or any(found.code != "template.prefix" for found in refused.findings):
                raise
        return Rows(self._one_by_one(messages, where), rewritten=True)

    def _far_too_long(self, messages: Sequence[Message], where: str) -> Encoded | None:
        """A row whose mask nobody needs: it will be cut at turns, left out or refused."""
        letters = sum(len(str(message.get("content") or "")) for message in messages)
        if letters <= CHARACTERS_PER_TOKEN * self.limit:
            return None
        rendered = render(self.tokenizer, messages, tools=self.tools, where=where)
        encoded = encode_spans(self.tokenizer, rendered.text, [])
        return encoded if len(encoded.input_ids) > self.limit else None

    def _one_by_one(self, messages: Sequence[Message], where: str) -> list[Encoded]:
        """A row for each exchange, after what came before as the template writes it then; where a template rewrites
        within an exchange, a row for each turn."""
        rows: list[Encoded] = []
        findings = []
        for first, last in self._exchanges(messages):
            turns = [index for index in range(first, last) if messages[index]["role"] == "assistant"]
            try:
                rows.append(self._supervised(messages[:last], turns, where))
            except Refused as refused:
                findings += refused.findings if len(turns) == 1 else []
                alone = turns if len(turns) > 1 else []
            else:
                continue
            for turn in alone:
                try:
                    rows.append(self._supervised(messages[: turn + 1], [turn], where))
                except Refused as refused:
                    findings += refused.findings
        if findings:
            raise Refused(*findings)
        return rows

    def _supervised(self, messages: Sequence[Message], turns: list[int], where: str) -> Encoded:
        return encode_chat(self.tokenizer, messages, tools=self.tools, train_on=turns, where=where)

    @staticmethod
    def _exchanges(messages: Sequence[Message]) -> list[Exchange]:
        starts = [index for index, message in enumerate(messages) if message["role"] == "user"] or [0]
        return list(zip(starts, [*starts[1:], len(messages)], strict=True))
