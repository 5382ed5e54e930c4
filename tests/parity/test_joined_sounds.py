"""A decoder that is joined with an encoder of sounds, beside transformers' own decoder on embeddings that are put
together here from its own encoder's frames.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

import tiny
from luthier.models.joined.compose import compose
from luthier.models.joined.writer import ComposedForCausalLM

POOL = 3


@pytest.mark.parametrize("ear", ["wav2vec2-group", "whisper"])
def test_the_loss_is_that_of_the_decoder_on_the_same_embeddings(ear: str, tmp_path: Path) -> None:
    """Two rows with sounds of 0.5 and 0.3 s, their frames joined by threes in the middle of the text."""
    ears, text = tiny.save_sound_model(ear, tmp_path / "ear"), tiny.save("llama", tmp_path / "lm")
    torch.manual_seed(0)
    compose(ears, text, "projection", {"pool": POOL}, tmp_path / "joined", listens=True)
    ours = ComposedForCausalLM.from_pretrained(tmp_path / "joined").eval()
    decoder = transformers.AutoModelForCausalLM.from_pretrained(text).eval()
    decoder.resize_token_embeddings(len(ours.get_input_embeddings().weight), mean_resizing=False)  # type: ignore[union-attr]
    with torch.no_grad():  # the mark's own row was drawn when the two were put together
        decoder.get_output_embeddings().weight[-1] = ours.lm_head.weight[-1]
    encoder = transformers.AutoModel.from_pretrained(ears).eval()
    encoder = encoder.get_encoder() if ear == "whisper" else encoder
    extractor = transformers.AutoFeatureExtractor.from_pretrained(ears)
    draw = torch.Generator().manual_seed(1)
    waves = [torch.randn(length, generator=draw) for length in (8000, 4800)]
    features = [_features(extractor, wave) for wave in waves]
    rows: list[tuple[Tensor, Tensor]] = []
    ids_rows = []
    with torch.no_grad():
        for feature in features:
            frames_PD = encoder(feature[None]).last_hidden_state[0]
            full = -(-len(frames_PD) // POOL)
            padded = torch.cat([frames_PD, frames_PD.new_zeros(full * POOL - len(frames_PD), frames_PD.shape[1])])
            tokens_QE = ours.model.fusion.project(padded.view(full, -1))
            before, after = torch.tensor([5, 6]), torch.tensor([7, 8, 9])
            table = decoder.get_input_embeddings()
            rows.append((torch.cat([table(before), tokens_QE, table(after)]), after))
            marks = torch.full((full,), ours.config.image_token_id)
            ids_rows.append(torch.cat([before, marks, after]))
        for (embeds_LE, after), ids_L, feature in zip(rows, ids_rows, features, strict=True):
            labels_L = torch.cat([torch.full((len(embeds_LE) - len(after),), -100), after])
            expected = decoder(inputs_embeds=embeds_LE[None], labels=labels_L[None]).loss
            found = ours(input_ids=ids_L[None], labels=labels_L[None], pixel_values=feature[None]).loss
            assert found == pytest.approx(float(expected), abs=1e-5)
        together = ours(
            input_ids=torch.nn.utils.rnn.pad_sequence(ids_rows, batch_first=True),
            attention_mask=torch.nn.utils.rnn.pad_sequence([one >= 0 for one in ids_rows], batch_first=True).long(),
            pixel_values=torch.nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=float("nan")),
        ).logits  # fmt: skip
        for (embeds_LE, _), logits_LV in zip(rows, together, strict=True):
            alone_LV = decoder(inputs_embeds=embeds_LE[None]).logits[0]
            assert torch.allclose(logits_LV[: len(alone_LV)], alone_LV, atol=1e-4)


def _features(extractor: transformers.FeatureExtractionMixin, wave_S: Tensor) -> Tensor:
    made = extractor(wave_S.numpy(), sampling_rate=16000, return_tensors="pt")  # type: ignore[operator]
    return made[extractor.model_input_names[0]][0]  # type: ignore[attr-defined]
