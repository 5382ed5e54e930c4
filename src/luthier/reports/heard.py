"""Python for the card of a model that hears: run in the folder that holds it, with transformers where that opens it."""

from __future__ import annotations

from typing import Any

LUTHIER = """\
import luthier

run = luthier.load("..")  # the run folder
print(run.predict(["sound.wav"]))
"""
ASKED = LUTHIER.replace('"sound.wav"', '{"audio": "sound.wav", "prompt": "What is said?"}')
OPEN = """\
import soundfile
import torch
from transformers import AutoFeatureExtractor, {names}

folder = "."  # the folder that holds this card
model = {kind}.from_pretrained(folder).eval()
extractor = AutoFeatureExtractor.from_pretrained(folder)
{tokenizer}
samples, rate = soundfile.read("sound.wav", dtype="float32")  # one channel, at extractor.sampling_rate
inputs = extractor(samples, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
{answer}"""
TOKENIZER = "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
CLASSIFY = """\
    logits = model(**inputs).logits[0]
print(model.config.id2label[int(logits.argmax())])
"""
LETTERS = """\
    logits = model(**inputs).logits[0]
print(tokenizer.decode(logits.argmax(-1)))
"""


def heard_code(run: dict[str, Any]) -> str:
    """``run`` is run.json. What writes token by token begins by its tokenizer's rule, which Luthier knows."""
    known = {"classification": ("AutoModelForAudioClassification", CLASSIFY), "ctc": ("AutoModelForCTC", LETTERS)}
    if run.get("opens_with") != "transformers" or run.get("objective") not in known:
        return ASKED if run["task"] == "chat" else LUTHIER
    kind, answer = known[run["objective"]]
    writes = answer is LETTERS
    names = f"{kind}, AutoTokenizer" if writes else kind
    return OPEN.format(names=names, kind=kind, tokenizer=TOKENIZER if writes else "", answer=answer)
