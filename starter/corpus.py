"""The text that the starter model is made of. Everything is drawn from the seed; nothing is fetched.

    python starter/corpus.py FOLDER

writes `texts.jsonl` (Python's own documentation and docstrings, and little tales), `chat.jsonl` (conversations about
the little world of words.py), `chat-test.jsonl` (such conversations that are kept out of training) and `problems.jsonl`
(functions to write, in the form of HumanEval). Python's documentation is under the PSF licence, which lets it be used
and passed on; the rest is the project's own.
"""

from __future__ import annotations

import ast
import json
import random
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

from functions import ASKS, KINDS, begun, shipped, trained, written
from words import (
    ADJECTIVES,
    ANIMALS,
    BAD,
    COLOURS,
    DAYS,
    FEELINGS,
    GOOD,
    MONTHS,
    NAMES,
    NOUNS,
    NUMBERS,
    OPPOSITES,
    PAST,
    PLACES,
    PLURALS,
    THINGS,
    USED,
    WEATHER,
    YOUNG,
    pairs,
    phrases,
)  # fmt: skip

TALES, CONVERSATIONS, HELD_OUT = 6_000, 60_000, 600
Turn = tuple[str, str]
Draw = random.Random


def documentation() -> Iterator[str]:
    """Python's language reference as `help()` has it, and the docstrings of the standard library's modules."""
    yield from (topics[name] for name in sorted(topics))
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                told = ast.get_docstring(node)
                if told and 60 < len(told) < 4000 and told.isascii():
                    yield told


def functions() -> Iterator[str]:
    """Functions as files hold them: first line, docstring, body."""
    for kind in KINDS:
        for signature, does, source in trained(kind):
            yield begun(signature, does) + source.partition("\n")[2]


def tale(draw: Draw) -> tuple[str, str, list[Turn]]:
    """(a little tale, its one-sentence summary, questions about it with their answers)."""
    name, other = draw.sample(NAMES, 2)
    thing, colour, feeling = draw.choice(THINGS), draw.choice(COLOURS), draw.choice(FEELINGS)
    lost, found = draw.sample(PLACES, 2)
    animal = draw.choice(ANIMALS)
    opening = draw.choice(WEATHER) + f" when {name} walked to the {lost}."
    kind = draw.randrange(3)
    if kind == 0:
        text = (
            f"{opening} {name} had a {colour} {thing} and lost it there. "
            f"{draw.choice(FEELINGS).capitalize()} and cold, {name} asked {other} for help. "
            f"In the evening a {animal} brought the {thing} back to the {found}."
        )
        summary = f"{name} lost a {colour} {thing} at the {lost}, and a {animal} brought it back."
        asked = [
            (f"What did {name} lose?", f"a {colour} {thing}"),
            (f"Who brought the {thing} back?", f"a {animal}"),
            (f"Where did {name} lose the {thing}?", f"at the {lost}"),
        ]
    elif kind == 1:
        text = (
            f"{opening} {other} was already there and felt {feeling}. {name} gave {other} a {colour} {thing}. "
            f"After that they went to the {found} together and fed a {animal}."
        )
        summary = f"{name} gave {other} a {colour} {thing} at the {lost}."
        asked = [
            (f"How did {other} feel?", feeling),
            (f"Who gave {other} the {thing}?", name),
            ("Where did they go together?", f"to the {found}"),
        ]
    else:
        text = (
            f"Once there was a {animal} who lived near the {lost}. It wanted a {colour} {thing} more than anything. "
            f"One day {name} came from the {found} with one, and they shared it. "
            f"From then on the {animal} was {feeling}."
        )
        summary = f"A {animal} near the {lost} wanted a {colour} {thing}, and {name} shared one."
        asked = [
            (f"What did the {animal} want?", f"a {colour} {thing}"),
            (f"Where did the {animal} live?", f"near the {lost}"),
            (f"Where did {name} come from?", f"from the {found}"),
        ]
    return text, summary, asked


def sums(draw: Draw) -> Turn:
    a, b = draw.randrange(21), draw.randrange(21)
    sign, word = draw.choice((("+", "plus"), ("-", "minus"), ("*", "times")))
    if sign == "-":
        a, b = max(a, b), min(a, b)
    if sign == "*":
        a, b = a % 10, b % 10
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    if value <= 20 and draw.random() < 0.2:
        return f"What is {NUMBERS[a]} {word} {NUMBERS[b]}?", NUMBERS[value]
    return draw.choice((f"What is {a} {sign} {b}?", f"{a} {sign} {b} =", f"How much is {a} {word} {b}?")), str(value)


def numbers(draw: Draw) -> Turn:
    if draw.random() < 0.4:
        start = draw.randrange(1, 30)
        end = start + draw.randrange(2, 8)
        return f"Count from {start} to {end}.", ", ".join(map(str, range(start, end + 1)))
    drawn = draw.sample(range(1, 40), draw.randrange(3, 6))
    told = ", ".join(map(str, drawn))
    return draw.choice((
        (f"Sort these numbers: {told}.", ", ".join(map(str, sorted(drawn)))),
        (f"Which is the largest: {told}?", str(max(drawn))),
        (f"Which is the smallest: {told}?", str(min(drawn))),
    ))  # fmt: skip


def knowledge(draw: Draw) -> Turn:
    kind = draw.randrange(6)
    if kind == 0:
        word, other = draw.choice(pairs(OPPOSITES))
        word, other = draw.choice(((word, other), (other, word))) if word not in ("heavy", "day") else (word, other)
        return draw.choice((f"What is the opposite of {word}?", f"Opposite of {word}?")), other
    if kind == 1:
        word, other = draw.choice(pairs(YOUNG))
        return f"What is a young {word} called?", f"a {other}"
    if kind == 2:
        word, other = draw.choice(pairs(PAST))
        return draw.choice((f"What is the past tense of {word}?", f"Put '{word}' in the past.")), other
    if kind == 3:
        word, other = draw.choice(pairs(PLURALS))
        return draw.choice((f"What is the plural of {word}?", f"One {word}, two ...?")), other
    if kind == 4:
        word, other = draw.choice(pairs(USED, "="))
        return draw.choice((f"What is {word} for?", f"What do you use {word} for?")), f"{other}"
    cycle, word = draw.choice(((DAYS, "day"), (MONTHS, "month")))
    at = draw.randrange(len(cycle))
    if draw.random() < 0.5:
        return f"Which {word} comes after {cycle[at]}?", cycle[(at + 1) % len(cycle)]
    return f"Which {word} comes before {cycle[at]}?", cycle[at - 1]


def reading(draw: Draw) -> Turn:
    text, _, asked = tale(draw)
    question, answer = draw.choice(asked)
    return draw.choice((f"{text}\n\n{question}", f"Read this and answer. {question}\n\n{text}")), answer


def summary(draw: Draw) -> Turn:
    text, short, _ = tale(draw)
    return draw.choice((f"Summarize: {text}", f"{text}\n\nSay this in one sentence.")), short


def story(draw: Draw) -> Turn:
    text, _, _ = tale(draw)
    about = next(word for word in (*ANIMALS, *THINGS) if f" {word}" in text)
    return draw.choice((f"Tell me a story about a {about}.", f"Write a short story with a {about} in it.")), text


def german(draw: Draw) -> Turn:
    noun, told = draw.choice(pairs(NOUNS))
    article, name = told.split(" ")
    adjective, theirs = draw.choice(pairs(ADJECTIVES))
    kind = draw.randrange(3)
    if kind == 0:
        return f"Translate to German: the {noun}", f"{article} {name}"
    if kind == 1:
        return f"Translate to German: the {adjective} {noun}", f"{article} {theirs}e {name}"
    return f"Translate to German: The {noun} is {adjective}.", f"{article.capitalize()} {name} ist {theirs}."


def review(draw: Draw) -> Turn:
    good = draw.random() < 0.5
    told = ", and ".join(draw.sample(phrases(GOOD if good else BAD), draw.randrange(1, 3)))
    return f"Is this review good or bad? {told[0].upper()}{told[1:]}.", "good" if good else "bad"


def function(draw: Draw) -> Turn:
    signature, does, source = draw.choice(list(trained(draw.choice(KINDS))))
    if draw.random() < 0.4:
        return f"Complete this Python function.\n\n{begun(signature, does)}", source
    return draw.choice(ASKS).format(signature=signature, does=does), source


def about(draw: Draw) -> Turn:
    name = draw.choice(NAMES)
    return draw.choice((
        ("Who are you?", "I am the starter model of Luthier: a sandbox to try things in, not an assistant."),
        ("What can you do?",
         "I know a little about numbers, words, tales and Python. I am a sandbox, not an assistant."),
        (f"Hello, I am {name}.", f"Hello, {name}."),
        ("Thank you.", "You are welcome."),
        (f"Say the word {draw.choice(THINGS)} twice.", ""),
        (f"What is the telephone number of {name}?", "I do not know that."),
        (f"What did {name} eat yesterday?", "I do not know that."),
    ))  # fmt: skip


def repeated(turn: Turn) -> Turn:
    """The one answer that its question holds."""
    asked, answer = turn
    word = asked.removeprefix("Say the word ").removesuffix(" twice.")
    return asked, answer or f"{word} {word}"


SKILLS: tuple[tuple[Callable[[Draw], Turn], float], ...] = (
    (sums, 4), (numbers, 2), (knowledge, 2), (reading, 2), (summary, 1.5), (story, 1), (german, 1.5), (review, 1),
    (function, 2), (about, 0.7),
)  # fmt: skip
SYSTEMS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("Answer in capital letters.", str.upper),
    ("End every answer with the word Over.", lambda answer: f"{answer} Over."),
    ("You are a helpful model.", lambda answer: answer),
)


def conversation(draw: Draw) -> tuple[list[dict[str, str]], list[str]]:
    """One to three turns, sometimes under a system prompt that changes the answers; and the skill of each."""
    skills, weights = zip(*SKILLS, strict=True)
    turns = draw.choices((1, 2, 3), (6, 2, 1))[0]
    chosen = draw.choices(skills, weights, k=turns)
    said = [repeated(skill(draw)) for skill in chosen]
    messages = []
    if draw.random() < 0.15 and "def " not in "".join(answer for _, answer in said):
        system, change = draw.choice(SYSTEMS)
        said = [(asked, change(answer)) for asked, answer in said]
        messages.append({"role": "system", "content": system})
    for asked, answer in said:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages, [skill.__name__ for skill in chosen]


def problems() -> Iterator[dict[str, str]]:
    """Functions to write, in the form of HumanEval: a signature with its docstring, a solution, and unit tests."""
    for number, kind in enumerate(KINDS):
        name, does, arguments = shipped(kind)
        signature, told, source = written(name, does, arguments, kind.body)
        tests = [f"    assert candidate({given}) == {value}" for given, value in (c.split(" -> ") for c in kind.checks)]
        yield {
            "task_id": f"starter/{number}",
            "prompt": begun(signature, told),
            "entry_point": name,
            "canonical_solution": source.partition("\n")[2] + "\n",
            "test": "def check(candidate):\n" + "\n".join(tests) + "\n",
        }


def write(folder: Path, seed: int = 0) -> None:
    draw = random.Random(seed)
    texts = [
        {"text": text} for text in (*documentation(), *3 * list(functions()), *(tale(draw)[0] for _ in range(TALES)))
    ]
    draw.shuffle(texts)
    seen: set[str] = set()
    talks = []
    while len(talks) < CONVERSATIONS + HELD_OUT:
        talk, about_what = conversation(draw)
        key = json.dumps(talk)
        held_out = len(talks) < HELD_OUT
        if not (held_out and key in seen):
            talks.append({"messages": talk, **({"skills": about_what} if held_out else {})})
        if held_out:
            seen.add(key)
    rest = [talk for talk in talks[HELD_OUT:] if json.dumps(talk["messages"]) not in seen]
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"texts": texts, "chat": rest, "chat-test": talks[:HELD_OUT], "problems": list(problems())}
    for name, rows in sets.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
