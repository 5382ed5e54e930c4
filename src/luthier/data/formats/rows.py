"""The formats that a row can have, and the example that a row of each stands for.

| name | columns (any of) | becomes |
|---|---|---|
| image-text-label | image, text (question, ...), label (answer, ...) | images, text, label |
| image-label | image (picture, file_name), label | images, label |
| image-question-answer | image, question (text, ...), answers (answer, label; or a list) | images, text, targets |
| image-caption | image, caption (captions, text, ...; text or list); negatives?, negative_images? | images, targets |
| audio-label | audio (sound, audio_filepath, ...), label | sounds, label |
| audio-text | audio, text (transcript, sentence, caption, ...; text or list) | sounds, targets |
| messages | messages; tools?, images? | messages, images |
| sharegpt | conversations or conversation; system?, tools?, images? | messages, images |
| alpaca | instruction, output or response; input or context?, system? | messages: instruction, blank line, input |
| self-instruct | instruction, instances: a list of one object with input and output; system? | the same |
| prompt-completion | prompt, completion or response; each a text or a list of turns | messages |
| code-problem | prompt (a begun function), entry_point, canonical_solution (solution); test? | text, targets, problem |
| squad | question, context (or contexts), answers (or answer); is_impossible? | text, question, targets, spans |
| open-question | question, answers | question, targets |
| question-answer | question, answer or answers or output; context? | messages: context, blank line, question |
| tokens-tags | tokens (words), tags (ner_tags, pos_tags, upos, labels) | text, a span for each word |
| text-spans | text (sentence, ...), spans (entities) | text, a span for each word, tagged in BIO |
| translation | translation: a text or texts by language | translations |
| instruction-steps | instruction (command, goal, task), steps (plan, actions; list or text) | text, targets |
| episode | trajectory (frames): steps with image?, state?, action; instruction?, units? | text, images, steps |
| source-target | source (src), target (tgt; text or list) | text, targets |
| text-label | text (sentence, review, ...), label (intent, category, ...) | text, label |
| document-summary | document (article, text), summary (summaries, highlights, target; text or list) | text, targets |
| preference | chosen, rejected; prompt?, system?, tools?, images?, margin?, scores? | messages, images, chosen, ... |
| judged-pair | two answers (output_1, output_2; ...), better (winner, ...); prompt? | messages, chosen, rejected |
| rated-answers | prompt, answers (responses, ...) with ratings | messages, chosen, rejected, margin |
| stepwise | prompt, steps (completions), labels (step_ratings) | messages, chosen, stepwise |
| scored-pair | sentence1, sentence2, score | text, targets, label |
| query-positive | query (anchor, question), positive (passage, context); negatives? | text, targets, negatives |
| thumbs | prompt and completion, or messages; label | messages, and chosen or rejected |
| checkable | prompt (question, ...), final (expected, ...) | messages, targets |
| plain-text | text | text |

Every format may have a ``weight`` column, which multiplies the loss of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.data.files.problems import PROBLEM, TESTS, code_problem
from luthier.data.files.questions import ANSWERS
from luthier.data.formats import (
    audio,
    checkable,
    conversations,
    episodes,
    images,
    judged,
    pairs,
    plans,
    preferences,
    steps,
    tagged,
    texts,
    translations,
)
from luthier.data.formats.fields import Columns, Fields, Format
from luthier.data.formats.squad import OPEN, SQUAD, open_question, squad
from luthier.types import Example, Finding, Source

IMAGE = ("image", "picture", "images", "file_name", "image_name")
TALK = {"system": ("system",), "tools": ("tools",)}
SHOW = TALK | {"images": IMAGE, "sounds": (*audio.AUDIO, "audios", "sounds")}

# In the order in which they are tried, those that a task takes before all others: a row with a text and a label is
# never taken for plain text.
FORMATS: dict[str, Format] = {
    "image-text-label": Format(
        {"image": IMAGE, "text": (*texts.TEXT, "question"), "label": (*texts.LABEL, "answer")},
        {},
        images.image_text_label,
    ),
    "image-question-answer": Format(
        {"image": IMAGE, "question": ("question", *texts.TEXT), "answer": ANSWERS}, {}, images.image_question_answer
    ),
    "image-label": Format({"image": IMAGE, "label": texts.LABEL}, {}, images.image_label),
    "image-caption": Format({"image": IMAGE, "caption": images.CAPTION}, images.NEGATIVES, images.image_caption),
    "audio-label": Format({"audio": audio.AUDIO, "label": texts.LABEL}, {}, audio.audio_label),
    "audio-text": Format({"audio": audio.AUDIO, "text": audio.TRANSCRIPT}, {}, audio.audio_text),
    "messages": Format({"messages": ("messages",)}, SHOW, conversations.messages, talks=True),
    "sharegpt": Format({"conversations": ("conversations", "conversation")}, SHOW, conversations.sharegpt, talks=True),
    "alpaca": Format(
        {"instruction": ("instruction",), "output": ("output", "response")},
        {"input": ("input", "context"), "system": ("system",)},
        conversations.alpaca,
        talks=True,
    ),
    "self-instruct": Format(
        {"instruction": ("instruction",), "instances": ("instances",)},
        {"system": ("system",)},
        conversations.self_instruct,
        talks=True,
    ),
    "prompt-completion": Format(
        {"prompt": ("prompt",), "completion": ("completion", "response")},
        TALK,
        conversations.prompt_completion,
        talks=True,
    ),
    "code-problem": Format(PROBLEM, TESTS, code_problem),
    "squad": Format(SQUAD, {"is_impossible": ("is_impossible",)}, squad),
    "open-question": Format(OPEN, {}, open_question),
    "question-answer": Format(
        {"question": ("question",), "answer": ("answer", "answers", "output")},
        {"context": ("context",), "system": ("system",)},
        conversations.question_answer,
        talks=True,
    ),
    "tokens-tags": Format(
        {"tokens": ("tokens", "words"), "tags": ("tags", "ner_tags", "pos_tags", "upos", "labels")},
        {},
        tagged.tokens_tags,
    ),
    "text-spans": Format({"text": texts.TEXT, "spans": ("spans", "entities")}, {}, tagged.text_spans),
    "translation": Format({"translation": ("translation",)}, {}, translations.translation),
    "instruction-steps": Format(plans.PLAN, {}, plans.instruction_steps),
    "episode": Format(episodes.EPISODE, episodes.BESIDE_EPISODE, episodes.episode),
    "source-target": Format({"source": ("source", "src"), "target": ("target", "tgt")}, {}, translations.source_target),
    "preference": Format(preferences.PAIR, preferences.BESIDE_PAIR, preferences.preference),
    "judged-pair": Format(judged.JUDGED, judged.BESIDE_JUDGED, judged.judged_pair),
    "rated-answers": Format(judged.RATED, judged.BESIDE_RATED, judged.rated_answers),
    "stepwise": Format(steps.STEPWISE, steps.BESIDE_STEPWISE, steps.stepwise),
    "scored-pair": Format(pairs.SCORED_PAIR, {}, pairs.scored_pair),
    "query-positive": Format(pairs.QUERY_POSITIVE, pairs.NEGATIVES, pairs.query_positive),
    "text-label": Format({"text": texts.TEXT, "label": texts.LABEL}, {}, texts.text_label),
    "document-summary": Format(
        {"document": ("document", "article", "text"), "summary": ("summary", "summaries", "highlights", "target")},
        {},
        texts.document_summary,
    ),
    "thumbs": Format(preferences.THUMBS, preferences.BESIDE_THUMBS, preferences.thumbs),
    "checkable": Format(checkable.CHECKABLE, checkable.BESIDE_CHECKABLE, checkable.checkable),
    "plain-text": Format({"text": ("text",)}, {}, texts.plain_text),
}


def reads_contexts(formats: Sequence[str]) -> bool:
    """Whether one of these formats has a question with its context."""
    return any({"question", "context"} <= {*FORMATS[name].needs, *FORMATS[name].may} for name in formats)


def to_example(
    source: Source, row: dict[str, Any], fmt: str, columns: Columns | None = None
) -> Example | list[Finding]:
    """The example that a row of a format (a key of ``FORMATS``) stands for, or everything that is wrong with it."""
    fields = Fields(source, row, FORMATS[fmt], columns or {})
    for name, held_by in fields.format.needs.items():
        if fields.format.column(name, row, fields.columns) is None:
            wanted = fields.columns.get(name) or " or ".join(held_by)
            fields.report("data.missing-field", name, f"has no {wanted}; its columns are {', '.join(row)}")
    if fields.findings:
        return fields.findings
    example = fields.format.build(fields)
    example.weight = fields.weight()
    return fields.findings or example
