"""One validated description of a run.

A recipe is data: a YAML file or a dictionary, with ``key=value`` overrides. Reading it collects every mistake (unknown
keys with the nearest name, wrong types, sections that nothing uses) as findings. Each value keeps its *origin*: given
(file:line), command line, task, method, machine or default; the resolved recipe prints them and runs again.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model

from luthier.methods import METHODS
from luthier.objectives import OBJECTIVES
from luthier.options import Options
from luthier.tasks import TASKS
from luthier.types import Finding, Refused


class ModelSection(Options):
    name: str = Field(description="a folder, a hub id, or `starter:minilm`")
    revision: str | None = Field(None, description="commit or tag of a hub id")
    template: str | None = Field(
        None, description="chat template: `chatml`, `plain` or a .jinja file; default: the tokenizer's"
    )


class DataSection(Options):
    train: str | list[str | dict[str, Any]] = Field(
        description="file, folder or hub id; several as a list, {path, weight} each"
    )
    eval: str | list[str] | float | None = Field(
        None, description="files to evaluate on, or the share of train to split off"
    )
    format: str | None = Field(None, description="messages, sharegpt, alpaca, ...; default: recognised")
    columns: dict[str, str] = Field(default_factory=dict, description="our name: the file's column")
    on_bad_row: Literal["stop", "skip"] = "stop"
    on_leak: Literal["stop", "drop"] = Field(
        "stop", description="training rows that are also in eval: stop, or leave out"
    )
    max_bad_rows: int = Field(100, ge=0, description="with `on_bad_row: skip`, more than these stop the run")


class Recipe(Options):
    """Every key that a run understands. ``None`` means: let the task, the method or the machine decide."""

    task: str
    model: ModelSection
    data: DataSection
    method: str = "lora"
    objective: str | None = None

    epochs: float = Field(3.0, gt=0)
    steps: int | None = Field(None, gt=0, description="optimizer steps; overrides epochs")
    batch_size: int | None = Field(None, gt=0, description="rows per optimizer step, over all processes")
    learning_rate: float | None = Field(None, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(0.06, ge=0, description="share of the steps, or a number of steps where >= 1")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)

    max_length: int | None = Field(None, gt=1, description="tokens; default: what the model takes")
    overlong: Literal["error", "truncate", "drop"] | None = None
    packing: Literal["auto", "on", "off"] = "auto"
    micro_tokens: int | None = Field(
        None, gt=0, description="tokens computed at a time; changes speed and memory, never the result"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    matmul: Literal["auto", "default", "onednn"] = "auto"
    gradient_checkpointing: bool = False

    eval_every: int | None = Field(None, gt=0, description="steps; default: once an epoch")
    save_every: int | None = Field(None, gt=0, description="steps; default: as eval_every")
    patience: int | None = Field(None, gt=0, description="evaluations without a better metric before stopping")
    metric: str | None = Field(None, description="what `best` means; default: the task's")
    final: Literal["best", "last"] | None = Field(None, description="which weights become the final model")
    keep: int = Field(2, gt=0, description="newest checkpoints kept, besides the best")

    seed: int = Field(0, ge=0)
    out: str = "runs"
    name: str | None = None
    track: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default_factory=list)


# Keys that say where and how fast, not what: a run resumes under the same hash when they change.
INCIDENTAL = {"out", "name", "track", "keep", "micro_tokens"}


@dataclass
class ResolvedRecipe:
    """A validated recipe with its sections: what `prepare` hands to the rooms."""

    recipe: Recipe
    task_options: Any
    method_options: Any
    objective_options: Any
    base: Path
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 of everything that changes the result."""
        kept = {key: value for key, value in self.as_dict().items() if key not in INCIDENTAL}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        values = self.recipe.model_dump()
        values["model"] = {k: v for k, v in values["model"].items() if v is not None}
        for name, options in self._sections():
            dumped = options.model_dump()
            if dumped:
                values[name] = {**values.get(name, {}), **dumped}
        return values

    def _sections(self) -> list[tuple[str, Any]]:
        named = [(self.recipe.task, self.task_options), (self.recipe.method, self.method_options)]
        return [*named, (self.recipe.objective or "", self.objective_options)]

    def rows(self) -> list[tuple[str, Any, str]]:
        """(dotted key, value, origin) of each resolved value, for printing."""
        flat = flatten(self.as_dict())
        return [
            (key, value, self.origins.get(key, "default")) for key, value in flat.items() if value not in (None, {}, [])
        ]

    def set(self, key: str, value: Any, origin: str) -> None:
        """Resolve one value that was left open."""
        setattr(self.recipe, key, value)
        self.origins[key] = origin

    def to_yaml(self) -> str:
        """The resolved recipe; each line says where its value came from. It can be run again."""
        lines, done = [], set()
        for key, value, origin in self.rows():
            section, _, leaf = key.rpartition(".")
            if section and section not in done:
                lines.append(f"{section}:")
            done.add(section)
            text = json.dumps(value, ensure_ascii=False)
            lines.append(f"{'  ' if section else ''}{leaf}: {text}  # {origin}")
        return "\n".join(lines) + "\n"


def read_recipe(
    source: str | Path | dict[str, Any], overrides: Sequence[str] = ()
) -> tuple[ResolvedRecipe | None, list[Finding]]:
    """Read, override and validate, collecting every mistake.

    Where task, model and data are known the recipe comes back even with mistakes in it (those keys left at their
    defaults), so that a check can go on and tell what else is wrong. Raises Refused when the file can't be read at all.
    """
    values, origins, base, where = _given(source)
    findings = _override(values, origins, list(overrides))
    recipe, mistakes = _validate(values, origins, base, where)
    return recipe, findings + mistakes


def _given(source: str | Path | dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], Path, str]:
    if isinstance(source, dict):
        values = copy.deepcopy(source)
        return values, dict.fromkeys(flatten(values), "given"), Path.cwd(), "recipe"
    path = Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        )
        mend = (
            f"did you mean {', '.join(near)}?"
            if near
            else "give the path of a YAML file; `luthier ls recipes` lists ready ones"
        )
        raise Refused(Finding("recipe.missing", str(path), "there is no such recipe", mend))
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(
            Finding("recipe.yaml", str(path), f"not readable as YAML: {error}", "mend the line it names")
        ) from None
    if not isinstance(values, dict):
        raise Refused(
            Finding("recipe.yaml", str(path), "a recipe is a mapping of keys to values", "begin with `task: ...`")
        )
    origins = {key: f"{path}:{line}" for key, line in _lines(node).items()}
    return values, origins, path.parent.resolve(), str(path)


def _lines(node: yaml.Node | None, prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = key.start_mark.line + 1
            lines |= _lines(value, f"{dotted}.")
    return lines


def _override(values: dict[str, Any], origins: dict[str, str], overrides: list[str]) -> list[Finding]:
    findings = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            findings.append(Finding("recipe.override", text, "an override is key=value", "for example lora.rank=16"))
            continue
        target = values
        *sections, leaf = key.split(".")
        for section in sections:
            inner = target.get(section)
            if section in ("model", "data") and isinstance(inner, str | list):  # the short form, opened
                inner = {"name" if section == "model" else "train": inner}
            target[section] = inner if isinstance(inner, dict) else {}
            target = target[section]
        try:
            target[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            target[leaf] = value
        origins[key] = "command line"
    return findings


def _validate(
    values: dict[str, Any], origins: dict[str, str], base: Path, where: str
) -> tuple[ResolvedRecipe | None, list[Finding]]:
    values = _open_short_forms(values)
    findings: list[Finding] = []
    task = _choice(TASKS, values.get("task"), "task", origins, where, findings)
    method = _choice(METHODS, values.get("method", "lora"), "method", origins, where, findings)
    values["method"] = method = method or "lora"  # a check goes on with the default
    objective = _choice(OBJECTIVES, values.get("objective"), "objective", origins, where, findings, optional=True)
    sections = {key: values.pop(key) for key in list(values) if key in TASKS or key in METHODS or key in OBJECTIVES}

    options: dict[str, Any] = {}
    for registry, name in ((TASKS, task), (METHODS, method), (OBJECTIVES, objective)):
        if name is not None:
            section = sections.pop(name, {})
            section = {} if section is None else section
            options[name] = _model(registry.load(name).Options, section, f"{name}.", origins, where, findings)
    for name in sections:
        place, mend = _place(name, origins, where), f"remove it, or choose `{name}` as task, method or objective"
        findings.append(Finding("recipe.unused-section", place, f"the section `{name}:` has no effect here", mend))
    recipe = _model(Recipe, values, "", origins, where, findings)
    if recipe is None or task is None or method is None:
        return None, findings
    run = ResolvedRecipe(recipe, options[task], options[method], options.get(objective or ""), base, origins)
    return run, findings


def _open_short_forms(values: dict[str, Any]) -> dict[str, Any]:
    """``model: X``, ``data: F`` and ``method: {lora: {rank: 8}}`` are short forms of their sections."""
    values = dict(values)
    if isinstance(values.get("model"), str):
        values["model"] = {"name": values["model"]}
    if isinstance(values.get("data"), str | list):
        values["data"] = {"train": values["data"]}
    if isinstance(values.get("method"), dict) and len(values["method"]) == 1:
        ((name, options),) = values["method"].items()
        values["method"] = name
        values[name] = {**(options or {}), **(values.get(name) or {})}
    return values


def _place(key: str, origins: dict[str, str], where: str) -> str:
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        origin = origins.get(".".join(parts[:end]))
        if origin and origin != "given":
            return f"{origin}:{key}"
    return f"{where}:{key}"


def _choice(
    registry: Any, value: Any, key: str, origins: dict[str, str], where: str, findings: list[Finding], *,
    optional: bool = False,
) -> str | None:  # fmt: skip
    if value is None and optional:
        return None
    if isinstance(value, str) and value in registry:
        return value
    known = ", ".join(registry)
    what = f"`{key}` is missing" if value is None else f"unknown {key} {value!r}"
    near = difflib.get_close_matches(str(value), list(registry), n=1, cutoff=0.5)
    mend = f"did you mean `{near[0]}`?" if near else f"one of: {known}"
    findings.append(Finding(f"recipe.{key}", _place(key, origins, where), what, mend))
    return None


def _model(
    kind: type[BaseModel], values: Any, prefix: str, origins: dict[str, str], where: str, findings: list[Finding]
) -> Any:
    """Validate; each mistake is a finding, and what is left without the mistaken keys is validated again."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
    values = copy.deepcopy(values)
    for problem in problems:
        names = [str(part) for part in problem["loc"] if isinstance(part, str) and part.isidentifier()]
        finding = _explain(kind, problem, names, _place(f"{prefix}{'.'.join(names)}".rstrip("."), origins, where))
        told = prefix == "" and names[:1] in (["task"], ["method"], ["objective"])  # with the nearest name, before
        if finding not in findings and not told:
            findings.append(finding)
        _remove(values, problem["loc"])
    try:
        return kind.model_validate(values)
    except ValidationError:
        return None


def _remove(values: Any, loc: tuple[int | str, ...]) -> None:
    for part in loc[:-1]:
        if isinstance(values, dict) and part in values:
            values = values[part]
    for part in reversed(loc):
        if isinstance(values, dict) and part in values:
            del values[part]
            return


def _explain(kind: type[BaseModel], problem: Any, names: list[str], place: str) -> Finding:
    leaf = names[-1] if names else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, names[:-1])
        near = difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
        mend = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        return Finding("recipe.unknown-key", place, f"unknown key `{leaf}`", mend)
    if problem["type"] == "missing":
        return Finding("recipe.missing-key", place, f"`{leaf}` is missing", f"add `{leaf}: ...`")
    what = problem["msg"][0].lower() + problem["msg"][1:]
    return Finding("recipe.value", place, f"`{leaf}` got {problem['input']!r}: {what}", "give a value of that kind")


def _known_keys(kind: type[BaseModel], path: list[str]) -> list[str]:
    for name in path:
        annotation = kind.model_fields[name].annotation if name in kind.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            kind = annotation
    known = list(kind.model_fields)
    return known + list(METHODS) + list(TASKS) if kind is Recipe else known


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"lora": {"rank": 8}} → {"lora.rank": 8}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and key != "columns":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe, with a section for each task, method and objective that has options."""
    sections: dict[str, Any] = {}
    for registry in (TASKS, METHODS, OBJECTIVES):
        for name in registry:
            options = registry.load(name).Options
            if options.model_fields:
                sections[name] = (options | None, None)
    model = create_model("Recipe", __base__=Recipe, **sections)
    schema = model.model_json_schema()
    schema["properties"]["model"] = {"anyOf": [{"type": "string"}, schema["properties"]["model"]]}
    schema["properties"]["data"] = {"anyOf": [{"type": "string"}, {"type": "array"}, schema["properties"]["data"]]}
    for key, registry in (("task", TASKS), ("method", METHODS)):
        schema["properties"][key] = {"type": "string", "enum": list(registry)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
