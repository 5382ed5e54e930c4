"""The two stacks of an encoder-decoder: which they are, what the decoder is fed, and its hidden states.

The model's own forward is not used for this: those with a language model's head give logits for every position, and
``models/heads.py`` makes them only where they are wanted.

Axes: K rows, S longest source, L longest target, D hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from luthier.models.joined.composed import ComposedModel
from luthier.models.vision.towers import describes, towers_of, writer_of, writes_from_source, writes_of_pictures
from luthier.types import Finding, Refused


def is_encoder_decoder(model: PreTrainedModel) -> bool:
    """Of the model, not its config: a classifier of sounds may hold the encoder of one alone."""
    if writes_from_source(model.config):
        return True
    return bool(model.config.is_encoder_decoder) and model.get_decoder() is not model


def stacks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The stacks by the name of their role: both of an encoder-decoder, the towers of a composed model, of one that
    compares pictures with texts or of one that writes about pictures, else none. With an encoder-decoder inside that is
    three of them."""
    if isinstance(model.base_model, ComposedModel):
        return model.base_model.towers()
    if not is_encoder_decoder(model) and hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        return {"image": model.get_submodule("vision_model"), "text": model.get_submodule("text_model")}
    if is_encoder_decoder(model) and describes(model.config):
        return {"image": model.get_encoder(), "text": model.get_decoder()}
    if is_encoder_decoder(model):
        writer, seen = (writer_of(model), towers_of(model)) if writes_from_source(model.config) else (model, {})
        eyes = {"image": seen["image"]} if seen else {}
        return eyes | {"encoder": writer.get_encoder(), "decoder": writer.get_decoder()}
    return towers_of(model) if writes_of_pictures(model.config) else {}


def shifted_right(model: PreTrainedModel, ids_KL: Tensor) -> Tensor:
    """What the decoder is fed so that position t predicts ``ids_KL[:, t]``: a start token, then all but the last.

    By the model's own rule where it offers one (some begin with the language of the target).
    Raises Refused where the model does not say which token the decoder begins with.
    """
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        return own(labels=ids_KL)
    start = model.config.decoder_start_token_id
    if start is None:
        what = "its config has no `decoder_start_token_id`, so the decoder can't begin"
        raise Refused(Finding("model.decoder-start", "model.name", what, "add it to the model's config.json"))
    shifted_KL = ids_KL.roll(1, dims=1)
    shifted_KL[:, 0] = start
    return shifted_KL


def decode(model: PreTrainedModel, source: dict[str, Tensor], target_KL: Tensor) -> Tensor:
    """(K, L, D): the decoder's hidden states, each from the whole source and the target tokens before it.

    ``source`` is what the encoder is given: ids (K, S) or embeddings, and their ``attention_mask``. Targets need no
    mask where they are padded on the right: the decoder is causal.
    """
    encoded_KSD = model.get_encoder()(**source).last_hidden_state
    decoded = model.get_decoder()(
        input_ids=shifted_right(model, target_KL), encoder_hidden_states=encoded_KSD,
        encoder_attention_mask=source["attention_mask"], use_cache=False,
    )  # fmt: skip
    return decoded.last_hidden_state
