"""The code of a model card: the shortest program that loads the final model and asks it something."""

from __future__ import annotations

import json
from typing import Any

from luthier.reports.heard import heard_code

HEADS = {
    "classify": "SequenceClassification", "tag": "TokenClassification", "chat": "CausalLM", "complete": "CausalLM",
    "summarize": "CausalLM", "translate": "CausalLM", "plan": "CausalLM", "prefer": "CausalLM", "reinforce": "CausalLM",
    "reward": "SequenceClassification",
}  # fmt: skip
HEADED = ("classify", "tag", "reward")
FROM_SOURCE = {
    "summarize": "A document to summarize.", "translate": "A text to translate.", "plan": "What is to be done.",
}  # fmt: skip
ASK_CLASS = """\
with torch.no_grad():
    logits = model(**tokenizer("A sentence to judge.", return_tensors="pt")).logits[0]
"""
ASK_TAGS = """\
inputs = tokenizer("A sentence to tag.", return_tensors="pt")
with torch.no_grad():
    tags = model(**inputs).logits[0].argmax(-1).tolist()
print([(tokenizer.decode(token), model.config.id2label[tag]) for token, tag in zip(inputs["input_ids"][0], tags)])
"""
READ_CLASS = {
    "classification": "print(model.config.id2label[logits.argmax().item()], logits.softmax(-1).tolist())\n",
    "multi_label": "print({model.config.id2label[i]: p for i, p in enumerate(logits.sigmoid().tolist())})\n",
    "regression": "print(logits.item())\n",
}
ASK_CHAT = """\
messages = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
ASK_SCORE = """\
messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, what can I do?"}]
inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
with torch.no_grad():
    print(model(**inputs).logits.item())
"""
ASK_TEXT = """\
inputs = tokenizer("Once upon a time", return_tensors="pt")
"""
GENERATE = """\
written = model.generate(**inputs, max_new_tokens=100)
print(tokenizer.decode(written[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
GENERATE_FROM_SOURCE = """\
written = model.generate(**inputs, max_new_tokens=100)
print(tokenizer.decode(written[0], skip_special_tokens=True))
"""
ASK_LUTHIER = """\
import luthier

run = luthier.load("..")  # the run folder
print(run.predict(["A sentence to judge."]))
"""
ASK_ROW = {
    "answer": '{"question": "Who wrote it?", "context": "Ada wrote it in 1843."}',
    "code": '{"prompt": "def add(a, b):\\n", "entry_point": "add"}',
}
"""Of tasks whose rows are asked in a form, and answered by more than a model's own words, that Luthier alone knows."""
ASK_PICTURE = ('{"image": "photo.jpg"}', '{"image": "photo.jpg", "text": "A sentence to judge."}')
CHOICES = """\
texts = ["a photo of a dog", "a photo of a cat"]
"""
ASK_MATCH = """\
pixels = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")["pixel_values"]
"""
READ_MATCH = """\
with torch.no_grad():
    logits = model(**inputs, pixel_values=pixels).logits_per_image[0]
"""


def library(run: dict[str, Any]) -> str:
    """What opens the final model; a run that is not finished has none yet."""
    return run.get("opens_with", "luthier")


def loading_code(run: dict[str, Any], classes: list[str], options: dict[str, Any]) -> str:
    """Python that runs in the folder that holds the model, with the library that opens it. ``classes`` are the label
    names in the order of their ids; ``options`` the task's section of the recipe."""
    reads = run["model"].get("reads", [])
    if run["task"] == "match":
        return heard_code(run) if "audio" in reads else _match(run)
    if "image" in reads:
        return ASK_LUTHIER.replace('"A sentence to judge."', ASK_PICTURE["text" in reads])
    if "audio" in reads:
        return heard_code(run)
    if library(run) == "luthier" or run["task"] in ASK_ROW:
        return ASK_LUTHIER.replace('"A sentence to judge."', ASK_ROW.get(run["task"], '"A sentence to judge."'))
    head = HEADS.get(run["task"], "Model")
    if head == "CausalLM" and run["model"].get("encoder_decoder"):
        head = "Seq2SeqLM"
    peft = library(run) == "peft"
    bare = "AutoPeftModelForFeatureExtraction" if peft else "AutoModel"
    kind = bare if head == "Model" else f"AutoPeftModelFor{head}" if peft else f"AutoModelFor{head}"
    imports = (
        f"from peft import {kind}\nfrom transformers import AutoTokenizer"
        if peft
        else (f"from transformers import {kind}, AutoTokenizer")
    )
    loaded = f"model = {kind}.from_pretrained(folder{_sizes(run, classes) if peft else ''}).eval()"
    start = f'{imports}\n\nfolder = "."  # the folder that holds this card\n{loaded}\n'
    torch = "import torch\n" if run["task"] in HEADED else ""
    return f"{torch}{start}tokenizer = AutoTokenizer.from_pretrained(folder)\n\n{_ask(run, options)}"


def _match(run: dict[str, Any]) -> str:
    """A picture and what it may show. The temperature that was learned lies beside an adapter, and is Luthier's."""
    if library(run) != "transformers":
        asked = f'{CHOICES}print(run.predict([{{"image": "photo.jpg", "texts": texts}}])[0]["probabilities"])\n'
        return ASK_LUTHIER.rpartition("print")[0] + asked
    model = run["model"]
    module, _, kind = model.get("class", "").rpartition(".")
    kind, ours = (kind, f"from {module} import {kind}\n\n") if module.startswith("luthier.") else ("AutoModel", "\n")
    names = ", ".join(sorted({kind, "AutoImageProcessor", "AutoTokenizer"} - ({kind} if ours.strip() else set())))
    start = f"import torch\nfrom PIL import Image\nfrom transformers import {names}\n{ours}"
    opened = f'folder = "."  # the folder that holds this card\nmodel = {kind}.from_pretrained(folder).eval()\n'
    backend = run.get("machine", {}).get("image_backend")
    same = f", backend={json.dumps(backend)}" if backend else ""  # the pixels that it learned from
    readers = (
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"processor = AutoImageProcessor.from_pretrained(folder{same})\n"
    )
    length = model.get("text_length")  # of a model that reads its pads too
    padded = f'padding="max_length", max_length={length}' if length else "padding=True"
    read = ["input_ids"] if length else ["input_ids", "attention_mask"]
    asked = f'tokens = tokenizer(texts, {padded}, truncation=True, return_tensors="pt")\n'
    asked += f"inputs = {{name: tokens[name] for name in {json.dumps(read)}}}\n"
    chances = "sigmoid()" if model.get("logit_bias") else "softmax(-1)"
    told = f"print(dict(zip(texts, logits.{chances}.tolist())))\n"
    return f"{start}{opened}{readers}\n{CHOICES}{ASK_MATCH}{asked}{READ_MATCH}{told}"


def _sizes(run: dict[str, Any], classes: list[str]) -> str:
    """The base model's own config knows nothing of the new head: how many outputs, and what they are called."""
    if run["task"] not in HEADED:
        return ""
    if run.get("objective") in ("regression", "bradley_terry") or not classes:
        return ", num_labels=1"
    names = dict(enumerate(classes))
    shown = f", id2label={names!r}" if len(classes) <= 20 else ""
    return f", num_labels={len(classes)}{shown}"


def _ask(run: dict[str, Any], options: dict[str, Any]) -> str:
    if run["task"] == "classify":
        return ASK_CLASS + READ_CLASS.get(run.get("objective", ""), "print(logits.tolist())\n")
    if run["task"] == "tag":
        return ASK_TAGS
    if run["task"] in FROM_SOURCE:
        from_source, example = run["model"].get("encoder_decoder"), FROM_SOURCE[run["task"]]
        prompt = f"{options.get('prefix', '')}{example}{'' if from_source else options['separator']}"
        asked = f'inputs = tokenizer({prompt!r}, return_tensors="pt")\n'
        return asked + (GENERATE_FROM_SOURCE if from_source else GENERATE)
    if run["task"] == "reward":
        return ASK_SCORE
    if run["task"] in ("chat", "prefer", "reinforce", "complete"):
        return (ASK_TEXT if run["task"] == "complete" else ASK_CHAT) + GENERATE
    return ""
