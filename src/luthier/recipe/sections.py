"""Every key that a recipe understands, with its type, its bounds and what it means."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.options import Options


class ModelSection(Options):
    name: str = Field(
        description="a folder, a hub id, `starter:minilm`, `starter:lm`, `starter:ears`; of a composed one, its towers'"
    )
    image: str | None = Field(None, description="an image encoder, to be composed with `text`")
    audio: str | None = Field(None, description="an encoder of sounds, to be composed with `text`")
    text: str | None = Field(None, description="an encoder or a decoder, to be composed with `image` or `audio`")
    fuse: str | dict[str, Any] | None = Field(
        None,
        description="how they meet: projection, concatenation, cross_attention, modulation, similarity; or one with "
        "its options",
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="where the weights come from; `random`: drawn anew as config.json says, under `seed`; of a "
        "composed model, those of towers that have none",
    )
    revision: str | None = Field(None, description="commit or tag of a hub id")
    template: str | None = Field(
        None, description="chat template: `chatml`, `plain` or a .jinja file; default: the tokenizer's"
    )
    template_options: dict[str, Any] = Field(
        default_factory=dict, description="what the chat template reads, such as `enable_thinking: false`"
    )

    @model_validator(mode="before")
    @classmethod
    def composed(cls, given: Any) -> Any:
        """A composed model is called by its towers."""
        if not isinstance(given, dict) or not {"image", "audio", "text", "fuse"} & given.keys():
            return given
        first = "audio" if isinstance(given.get("audio"), str) and "image" not in given else "image"
        if not (isinstance(given.get(first), str) and isinstance(given.get("text"), str)) or (
            first == "image" and "audio" in given
        ):
            raise ValueError("a composed model has `image` (or `audio`) and `text`, a folder or a hub id each")
        name = "+".join(given[role].rstrip("/").split("/")[-1] for role in (first, "text"))
        if given.get("name", name) != name:
            raise ValueError(f"`name: {given['name']}` is a model by itself, and `{first}` and `text` compose another")
        return {**given, "name": name}

    @field_validator("fuse", mode="before")
    @classmethod
    def one_way(cls, given: Any) -> Any:
        if not isinstance(given, str | None) and not (isinstance(given, dict) and len(given) == 1):
            raise ValueError("name one way to join them, or one with its options")
        return given

    @property
    def fusion(self) -> tuple[str, dict[str, Any]]:
        """The mechanism and its options."""
        if isinstance(self.fuse, dict):
            name, options = next(iter(self.fuse.items()), ("", None))
            return str(name), dict(options or {})
        return self.fuse or "projection", {}


class DataSection(Options):
    train: str | list[str | dict[str, Any]] = Field(
        description="file, folder or hub id; several as a list, {path, weight, share} each: `weight` multiplies the "
        "loss of its rows, `share` is how much of an epoch is drawn from it"
    )
    temperature: float | None = Field(
        None, gt=0, description="draws from several sets by size^(1/temperature), instead of shares; 1: as they are"
    )
    eval: str | list[str] | float | None = Field(
        None, description="files to evaluate on, or the share of train to split off"
    )
    select: float | None = Field(
        None, gt=0, lt=1, description="share of train to choose checkpoints on, apart from eval; default: eval's rows"
    )
    split_seed: int | None = Field(None, ge=0, description="of the splits and of `few_shot`; default: `seed`")
    few_shot: int | None = Field(
        None, gt=0, description="how many rows of each class of train are learned from, drawn by content; default: all"
    )
    format: str | None = Field(None, description="messages, sharegpt, alpaca, ...; default: recognised")
    columns: dict[str, str] = Field(default_factory=dict, description="our name: the file's column")
    images: str | list[str] | None = Field(
        None, description="the folder, or folders, of pictures that do not lie beside the file that names them"
    )
    index: str | None = Field(
        None, description="a folder that `luthier index` made: what it finds for a row's question is the row's context"
    )
    passages: int = Field(3, gt=0, description="how many passages of `index` a question is given")
    on_bad_row: Literal["stop", "skip"] = Field("stop", description="a row that can't be read or used")
    on_leak: Literal["stop", "drop"] = Field(
        "stop", description="training rows that are also in eval: stop, or leave out"
    )
    max_bad_rows: int = Field(100, ge=0, description="with `on_bad_row: skip`, more than these stop the run")


class AugmentSection(Options):
    """How pictures and sounds are varied each time they are learned, by the seed, the epoch and the row alone."""

    crop: float = Field(
        default=1.0, gt=0, le=1, description="the least share of a picture's area that is seen; 1: all; 0.5 is much"
    )
    flip: float = Field(default=0.0, ge=0, le=1, description="the probability that left and right change places")
    colour: float = Field(
        default=0.0, ge=0, le=1, description="brightness, contrast and saturation change by up to this share"
    )
    speeds: list[float] = Field(
        default=[1.0], min_length=1, description="a sound is played at one of these speeds, drawn anew each epoch"
    )
    time_masks: int = Field(default=0, ge=0, description="stretches of time that are hidden")
    time_mask: float = Field(default=0.1, gt=0, description="seconds; the widest")
    band_masks: int = Field(default=0, ge=0, description="bands of a spectrogram that are hidden")
    band_mask: float = Field(default=0.2, gt=0, lt=1, description="the widest, as a share of all bands")

    @field_validator("speeds")
    @classmethod
    def within(cls, given: list[float]) -> list[float]:
        if bad := [one for one in given if not 0.5 <= one <= 2]:
            raise ValueError(f"a speed is from 0.5 to 2, this is {bad[0]}")
        return given

    @property
    def pictures(self) -> dict[str, float]:
        """What varies pictures; nothing where they stay as they are."""
        wanted = {"crop": self.crop, "flip": self.flip, "colour": self.colour}
        return wanted if wanted != {"crop": 1.0, "flip": 0.0, "colour": 0.0} else {}

    @property
    def sounds(self) -> bool:
        """Whether sounds are varied."""
        return bool(self.time_masks or self.band_masks or self.speeds != [1.0])


class SamplesSection(Options):
    prompts: str | list[Any] | None = Field(
        default=None, description="what is asked as training goes on: texts, conversations or rows; or a file of rows"
    )
    every: int | None = Field(default=None, gt=0, description="steps; default: as eval_every")
    max_new_tokens: int = Field(default=64, gt=0, description="of an answer that is written")


class Recipe(Options):
    """Every key that a run understands. ``None`` means: let the task, the method or the machine decide."""

    task: str = Field(description="what is wanted")
    model: ModelSection
    data: DataSection
    method: str | list[str] | dict[str, Any] = Field(
        "lora",
        description="which numbers train; several as a list, each with its section; or by role (vision, text, audio, "
        "encoder, decoder, projector, head), each with its method and its `learning_rate`",
    )
    objective: str | None = Field(None, description="the loss; default: the task's")

    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    steps: int | None = Field(None, gt=0, description="optimizer steps; overrides epochs")
    batch_size: int | None = Field(None, gt=0, description="rows per optimizer step, over all processes")
    learning_rate: float | None = Field(None, gt=0, description="at its highest; default: the method's")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="of the learning rate, after warm-up"
    )
    warmup: float = Field(0.06, ge=0, description="share of the steps, or a number of steps where >= 1")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; biases and norms have none")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled to this length")

    max_length: int | None = Field(None, gt=1, description="tokens; default: what the model takes")
    overlong: Literal["error", "truncate", "drop", "split"] | None = Field(
        None, description="rows over `max_length`; `split` cuts conversations at turns; default: the task's"
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto", description="rows end to end with attention kept apart, instead of padded"
    )
    micro_tokens: int | None = Field(
        None, gt=0, description="tokens computed at a time; changes speed and memory, never the result"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="of the computation; what trains is fp32")
    matmul: Literal["auto", "default", "onednn"] = Field("auto", description="the library of matrix products on a CPU")
    image_backend: Literal["auto", "pil", "torchvision"] = Field(
        "auto", description="what makes pixels of pictures: Pillow or torchvision; auto: torchvision where it is"
    )
    batch_norm: Literal["auto", "batch", "frozen"] = Field(
        "auto",
        description="the statistics that batch normalisation takes in training: each batch's own, or the checkpoint's; "
        "auto: each batch's own under `full`, where a step is computed in one go, or one in each of several processes",
    )
    gradient_checkpointing: bool = Field(False, description="less memory, more time, the same result")

    eval_every: int | None = Field(None, gt=0, description="steps; default: once an epoch")
    save_every: int | None = Field(None, gt=0, description="steps; default: as eval_every")
    patience: int | None = Field(None, gt=0, description="evaluations without a better metric before stopping")
    metric: str | None = Field(None, description="what `best` means; default: the task's")
    final: Literal["best", "last"] | None = Field(None, description="which weights become the final model")
    keep: int = Field(2, gt=0, description="newest checkpoints kept, besides the best")

    samples: SamplesSection = SamplesSection()
    augment: AugmentSection = AugmentSection()

    seed: int = Field(0, ge=0, description="of the split, the order of rows, new weights and dropout")
    out: str = Field("runs", description="the folder of run folders")
    name: str | None = Field(None, description="of the run folder; default: task-model-method")
    track: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list, description="also send the metrics there"
    )
