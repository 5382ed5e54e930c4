"""A conversation as text, by the tokenizer's chat template, in the sandbox that transformers renders templates in."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.text.parts import in_parts
from luthier.data.text.tool_calls import with_object_arguments, with_text_arguments, written_as_python
from luthier.types import Finding, Message, Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Characters [start, end) of a rendered text."""

TEMPLATES = Path(__file__).parent / "templates"
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
NEEDED_TOKENS = {"chatml": ("<|im_start|>", "<|im_end|>")}


@dataclass
class Rendered:
    """The text of a conversation; ``marks`` are what the template itself marks as generated."""

    text: str
    marks: list[Span] = field(default_factory=list)


def load_template(tokenizer: PreTrainedTokenizerBase, name_or_path: str, base: Path | str = ".") -> None:
    """Give the tokenizer one of our chat templates (``plain``, ``chatml``) or a ``.jinja`` file, relative to ``base``.

    Raises Refused with ``template.unknown``, or ``template.tokens`` where the tokenizer lacks the turn's tokens: an end
    of turn that is spelled in ordinary tokens cannot stop generation.
    """
    path = TEMPLATES / f"{name_or_path}.jinja"
    if not path.is_file():
        path = Path(base) / Path(name_or_path).expanduser()
    if not path.is_file():
        ours = sorted(known.stem for known in TEMPLATES.glob("*.jinja"))
        near = difflib.get_close_matches(name_or_path, ours, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"give a .jinja file, or one of {', '.join(ours)}"
        raise Refused(Finding("template.unknown", "model.template", f"there is no template {name_or_path!r}", mend))
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in NEEDED_TOKENS.get(name_or_path, ()) if token not in vocabulary]
    if missing:
        what = f"the tokenizer has no token {' and no token '.join(missing)}, which {name_or_path} needs"
        mend = "set `model.template: plain`, which needs none"
        raise Refused(
            Finding("template.tokens", "model.template", what, mend, "generation could not stop at a turn's end")
        )
    tokenizer.chat_template = path.read_text(encoding="utf-8")


def fix_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Write options such as ``enable_thinking`` into the template itself, so that the tokenizer which is saved with
    the model writes the very prompts that it was trained on.

    Raises Refused: ``template.option`` for one that the template does not read, ``template.none`` without a template.
    """
    if not options:
        return
    named = tokenizer.chat_template
    templates: dict[str, str] = dict(named) if isinstance(named, dict) else {"": template_of(tokenizer)}
    words = sorted({word for text in templates.values() for word in re.findall(r"[A-Za-z_]\w*", _code(text))})
    findings = []
    for name in options:
        if name not in words:
            near = difflib.get_close_matches(name, words, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "leave it out"
            what = f"the chat template reads no option {name!r}"
            findings.append(Finding("template.option", f"model.template_options.{name}", what, mend))
    if findings:
        raise Refused(*findings)
    # The newline after a block is dropped by the settings that transformers renders with.
    fixed = "".join(f"{{% set {name} = {_literal(value)} %}}\n" for name, value in options.items())
    made = {key: fixed + text for key, text in templates.items()}
    tokenizer.chat_template = made if isinstance(named, dict) else made[""]


def code_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The code of the tokenizer's template, or of all that it has."""
    named = tokenizer.chat_template or ""
    return " ".join(_code(text) for text in (named.values() if isinstance(named, dict) else [named]))


def _code(template: str) -> str:
    """What stands in the template's blocks, without its text and comments."""
    return " ".join(re.findall(r"\{%.*?%\}|\{\{.*?\}\}", re.sub(r"\{#.*?#\}", "", template, flags=re.S), re.S))


def _literal(value: Any) -> str:
    """A value as Jinja writes it: JSON, but for ``none``."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(part) for part in value) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, Any]] | None = None) -> str:
    """The template's source. Raises Refused (``template.none``) where the tokenizer has none."""
    try:
        if tokenizer.chat_template:
            return tokenizer.get_chat_template(tools=list(tools) if tools else None)
        what = "the tokenizer has no chat template"
    except ValueError:  # several named templates, and none of them the default
        what = "the tokenizer has several chat templates and none is the default"
    mend = "set `model.template: plain`, or `model.template: chatml` where the tokenizer has its tokens"
    raise Refused(Finding("template.none", "model.template", what, mend))


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] | None = None,
    add_generation_prompt: bool = False, where: str = "messages",
) -> Rendered:  # fmt: skip
    """Render ``messages``, with the spans between ``{% generation %}`` marks where the template has them.

    Raises Refused: ``template.none``, ``template.role`` where the template itself refuses the conversation, and
    ``template.render`` where it fails on it.
    """
    from jinja2.exceptions import TemplateError

    # Many templates write None as a word; transformers drops such keys before rendering, too.
    turns = [{key: part for key, part in message.items() if part is not None} for message in messages]
    calls = any(turn.get("tool_calls") for turn in turns)
    turns = in_parts(tokenizer, with_object_arguments(turns) if calls else turns)
    try:
        try:
            rendered = _render(tokenizer, turns, tools, add_generation_prompt)
        except TypeError:  # a template that joins a call's arguments to a text
            if not calls:
                raise
            return _render(tokenizer, with_text_arguments(turns), tools, add_generation_prompt)
        if calls and written_as_python(rendered.text, turns):
            return _render(tokenizer, with_text_arguments(turns), tools, add_generation_prompt)
    except Refused:
        raise
    except Exception as error:  # a template is a program: whatever it raises is a statement about this conversation
        roles = ", ".join(str(message.get("role")) for message in messages) or "none"
        if type(error) is TemplateError:  # what `raise_exception` in a template raises; failures are subclasses
            what = f"the chat template refuses the conversation (roles: {roles}): {error}"
            mend = "change the roles of this row, or set another `model.template`"
            raise Refused(Finding("template.role", where, what, mend)) from error
        what = f"the chat template fails on the conversation (roles: {roles}): {type(error).__name__}: {error}"
        mend = "compare the row with what the template reads, or set another `model.template`"
        raise Refused(Finding("template.render", where, what, mend)) from error
    return rendered


def _render(
    tokenizer: PreTrainedTokenizerBase, turns: list[Message], tools: Sequence[dict[str, Any]] | None, prompt: bool
) -> Rendered:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = template_of(tokenizer, tools)
    marked = GENERATION_MARK.search(template) is not None
    named_tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
    made: Any = render_jinja_template(
        conversations=[turns], tools=list(tools) if tools else None, chat_template=template,
        add_generation_prompt=prompt, return_assistant_tokens_mask=marked, **named_tokens,
    )  # fmt: skip
    texts, marks = made
    return Rendered(texts[0], [(start, end) for start, end in marks[0]] if marked else [])
