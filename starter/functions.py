"""Python functions that the starter model learns to write, each with a description and checks.

A kind has several wordings and names, so that one of each can be kept out of training: the problems that are shipped
(`problems` in corpus.py) are asked in words and under names that no training row has together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """``names`` (the first is the shipped problem's), wordings of what it does, arguments, body, and checks."""

    names: tuple[str, ...]
    does: tuple[str, ...]
    arguments: tuple[str, ...]
    body: str
    checks: tuple[str, ...]
    """Arguments and the value: ``2, 3 -> 5``."""


KINDS = (
    Kind(("add", "total", "plus"), ("the sum of {0} and {1}", "{0} plus {1}"), ("a b", "x y", "left right"),
         "return {0} + {1}", ("2, 3 -> 5", "-1, 1 -> 0")),
    Kind(("subtract", "difference", "minus"), ("{0} minus {1}", "the difference of {0} and {1}"), ("a b", "x y"),
         "return {0} - {1}", ("5, 3 -> 2", "0, 4 -> -4")),
    Kind(("multiply", "product", "times"), ("the product of {0} and {1}", "{0} times {1}"),
         ("a b", "x y", "left right"), "return {0} * {1}", ("2, 3 -> 6", "-2, 4 -> -8")),
    Kind(("square", "squared"), ("the square of {0}", "{0} times itself"), ("x", "n", "number"),
         "return {0} * {0}", ("3 -> 9", "-2 -> 4")),
    Kind(("double", "twice"), ("twice {0}", "the double of {0}"), ("x", "n", "number"),
         "return 2 * {0}", ("4 -> 8", "0 -> 0")),
    Kind(("is_even", "even"), ("whether {0} is even", "True where {0} is an even number"), ("n", "x", "number"),
         "return {0} % 2 == 0", ("4 -> True", "7 -> False")),
    Kind(("is_odd", "odd"), ("whether {0} is odd", "True where {0} is an odd number"), ("n", "x", "number"),
         "return {0} % 2 == 1", ("4 -> False", "7 -> True")),
    Kind(("is_positive", "positive"), ("whether {0} is above zero", "True where {0} is positive"), ("n", "x"),
         "return {0} > 0", ("4 -> True", "-1 -> False")),
    Kind(("larger", "greater"), ("the larger of {0} and {1}", "the maximum of {0} and {1}"), ("a b", "x y"),
         "return max({0}, {1})", ("2, 9 -> 9", "5, 1 -> 5")),
    Kind(("smaller", "lesser"), ("the smaller of {0} and {1}", "the minimum of {0} and {1}"), ("a b", "x y"),
         "return min({0}, {1})", ("2, 9 -> 2", "5, 1 -> 1")),
    Kind(("length", "size"), ("how many items {0} has", "the length of {0}"), ("items", "values", "words"),
         "return len({0})", ("[1, 2] -> 2", "[] -> 0")),
    Kind(("first", "head"), ("the first item of {0}", "the item at the start of {0}"), ("items", "values", "words"),
         "return {0}[0]", ("[1, 2] -> 1", "'ab' -> 'a'")),
    Kind(("last", "tail"), ("the last item of {0}", "the item at the end of {0}"), ("items", "values", "words"),
         "return {0}[-1]", ("[1, 2] -> 2", "'ab' -> 'b'")),
    Kind(("sum_all", "add_all"), ("the sum of all {0}", "all {0} added up"), ("numbers", "values", "items"),
         "return sum({0})", ("[1, 2, 3] -> 6", "[] -> 0")),
    Kind(("largest", "highest"), ("the largest of {0}", "the maximum of all {0}"), ("numbers", "values", "items"),
         "return max({0})", ("[1, 5, 3] -> 5", "[-2] -> -2")),
    Kind(("mean", "average"), ("the mean of {0}", "the average of {0}"), ("numbers", "values", "items"),
         "return sum({0}) / len({0})", ("[1, 2, 3] -> 2", "[4] -> 4")),
    Kind(("reverse", "backwards"), ("{0} in reverse order", "{0} from end to start"), ("items", "text", "words"),
         "return {0}[::-1]", ("[1, 2] -> [2, 1]", "'abc' -> 'cba'")),
    Kind(("shout", "upper"), ("{0} in capital letters", "{0} in upper case"), ("text", "word", "name"),
         "return {0}.upper()", ("'abc' -> 'ABC'", "'' -> ''")),
    Kind(("whisper", "lower"), ("{0} in small letters", "{0} in lower case"), ("text", "word", "name"),
         "return {0}.lower()", ("'ABC' -> 'abc'", "'' -> ''")),
    Kind(("strip_spaces", "trim"), ("{0} without spaces around it", "{0} with the spaces at its ends removed"),
         ("text", "word"), "return {0}.strip()", ("' a ' -> 'a'", "'' -> ''")),
    Kind(("split_words", "words_of"), ("the words of {0}", "{0} split at spaces"), ("text", "line"),
         "return {0}.split()", ("'a b' -> ['a', 'b']", "'' -> []")),
    Kind(("ordered", "sort_items"), ("{0} in order", "{0} sorted"), ("items", "values", "words"),
         "return sorted({0})", ("[2, 1] -> [1, 2]", "[] -> []")),
    Kind(("greet", "hello"), ("'Hello, ' and then {0}", "a greeting: 'Hello, ' followed by {0}"), ("name", "person"),
         "return 'Hello, ' + {0}", ("'Ann' -> 'Hello, Ann'",)),
    Kind(("count_item", "occurrences"), ("how often {1} is in {0}", "how many times {0} holds {1}"),
         ("items item", "values value"), "return {0}.count({1})", ("[1, 2, 1], 1 -> 2", "'abca', 'b' -> 1")),
)  # fmt: skip

ASKS = (
    "Write a Python function `{signature}` that returns {does}.",
    "Write `{signature}` in Python. It returns {does}.",
    "I need a function `{signature}` that gives {does}.",
)


def shipped(kind: Kind) -> tuple[str, str, str]:
    """(name, what it does, arguments) of the problem that no training row holds."""
    return kind.names[0], kind.does[0], kind.arguments[0]


def begun(signature: str, does: str) -> str:
    """A function that is begun: its first line and its docstring."""
    return f'def {signature}:\n    """Return {does}."""\n'


def written(name: str, does: str, arguments: str, body: str) -> tuple[str, str, str]:
    """(signature, what it does, the function's source)."""
    names = arguments.split()
    signature = f"{name}({', '.join(names)})"
    return signature, does.format(*names), f"def {signature}:\n    {body.format(*names)}"


def trained(kind: Kind) -> Iterator[tuple[str, str, str]]:
    """Every other way of asking: (signature, what it does, source)."""
    for name in kind.names:
        for does in kind.does:
            for arguments in kind.arguments:
                if (name, does, arguments) != shipped(kind):
                    yield written(name, does, arguments, kind.body)
