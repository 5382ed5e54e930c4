"""Composed models that write: the decoder's own numbers, with and without pictures, in any layout, with and without a
cache, and after saving.

Axes: K rows, L columns, P hidden states of a picture, E width, V vocabulary, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tiny
from luthier.evaluate.generate import generate
from luthier.fusion.cross_attention import Gated
from luthier.models.joined.compose import compose
from luthier.models.joined.multimodal import MultimodalBackbone
from luthier.models.joined.writer import ComposedForCausalLM
from luthier.models.load import load
from luthier.objectives.next_token import Objective, Options
from luthier.types import Features, Refused

FUSIONS: list[tuple[str, dict[str, Any]]] = [
    ("projection", {}), ("projection", {"tokens": 2, "resample": True}), ("concatenation", {"when": "early"}),
    ("cross_attention", {}), ("cross_attention", {"every": 2}),
]  # fmt: skip
DECODERS = ("llama", "llama-tied", "gpt2")


@pytest.fixture
def opened(tmp_path: Path, tiny_folder: Callable[..., str]) -> Callable[..., MultimodalBackbone]:
    def opened(decoder: str, fuse: str, options: dict[str, Any]) -> MultimodalBackbone:
        image = tiny.save_image_model("vit", tmp_path / "image")
        compose(image, tiny_folder(decoder), fuse, options, tmp_path / "both")
        backbone = load("both", str(tmp_path / "both"), "token_logits")
        assert isinstance(backbone, MultimodalBackbone)
        backbone.model.eval()
        return backbone

    return opened


def rows_of(backbone: MultimodalBackbone, pictures: list[Path]) -> list[Features]:
    """With two, one and no pictures; every token but the first and the pictures' own is supervised."""
    marker = backbone.model.config.image_token_id
    made = []
    for at, (some, text) in enumerate(
        ((pictures[:2], "red cat"), (pictures[2:3], "old house and tree"), ([], "dog bird"))
    ):
        row = backbone.picture_row(some, text, None)
        supervised = [token != marker for token in row["input_ids"]]
        made.append(row | {"row": at, "weight": 1.0, "supervised": supervised})
    return made


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("fuse", "options"), FUSIONS)
def test_loss_is_the_decoders_in_any_layout(
    decoder: str, fuse: str, options: dict, pictures: list[Path], opened: Callable[..., MultimodalBackbone]
) -> None:
    """Packed, padded and each row alone give one loss; so does transformers' way, labels on the whole model."""
    backbone = opened(decoder, fuse, options)
    rows = rows_of(backbone, pictures)
    objective = Objective(Options(), backbone, lambda example: [])

    def loss(some: list[Features]) -> float:
        return float(objective.loss(backbone, objective.collate(some)).total.detach())

    with backbone.looking(), torch.no_grad():
        theirs = 0.0
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([row["supervised"]]), ids, -100)
            found = backbone.model(input_ids=ids, labels=labels, **backbone.row_media([row]))
            theirs += float(found.loss) * sum(row["supervised"][1:])
        padded = loss(rows)
        assert padded == pytest.approx(theirs, rel=1e-5)
        assert sum(loss([row]) for row in rows) == pytest.approx(padded, rel=1e-5)
        backbone.choose_layout("auto")
        assert backbone.layout == ("packed" if backbone.in_row else "padded")
        assert loss(rows) == pytest.approx(padded, rel=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_projected_pictures_stand_in_the_row_as_embeddings(
    decoder: str, pictures: list[Path], tiny_folder: Callable[..., str], opened: Callable[..., MultimodalBackbone]
) -> None:
    """The decoder as transformers opens it, fed embeddings of the words with what the projection made in between."""
    backbone = opened(decoder, "projection", {})
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(decoder)).eval()
    (row, *_) = rows_of(backbone, pictures)
    marker, media = backbone.model.config.image_token_id, backbone.row_media([row])
    with torch.no_grad():
        states_IPD = backbone.trunk.image(pixel_values=media["pixel_values"]).last_hidden_state
        made = iter(backbone.fusion.project(states_IPD).flatten(0, 1))
        words = plain.get_input_embeddings()
        embeds = [next(made) if token == marker else words(torch.tensor(token)) for token in row["input_ids"]]
        expected = plain(inputs_embeds=torch.stack(embeds)[None]).logits
        found = backbone.model(input_ids=torch.tensor([row["input_ids"]]), **media).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_closed_gates_leave_the_decoder_as_it_was(
    decoder: str, pictures: list[Path], tiny_folder: Callable[..., str], opened: Callable[..., MultimodalBackbone]
) -> None:
    """At first logits are those of the decoder alone; with gates open only a row without pictures keeps them."""
    backbone = opened(decoder, "cross_attention", {})
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder(decoder)).eval()
    for row in rows_of(backbone, pictures):
        ids, media = torch.tensor([row["input_ids"]]), backbone.row_media([row])
        with torch.no_grad():
            expected = plain(ids).logits
            size = expected.shape[-1]
            torch.testing.assert_close(backbone.model(input_ids=ids, **media).logits[..., :size], expected)
            with backbone.looking():
                seen = backbone.model(input_ids=ids, **media).logits[..., :size]
            assert torch.equal(seen, expected) == (not media)
            assert torch.equal(backbone.model(input_ids=ids, **media).logits[..., :size], expected)


def test_a_gated_block_is_torchs_attention_through_its_gate() -> None:
    """y = x + tanh(α) MHA(norm x, seen), x' = y + tanh(β) W₂ GELU(W₁ norm y), by ``nn.MultiheadAttention``."""
    torch.manual_seed(0)
    block, width = Gated(128), 128
    with torch.no_grad():
        block.gate.fill_(0.7)
        block.gate_ff.fill_(-0.3)
    theirs = torch.nn.MultiheadAttention(width, 2, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        theirs.out_proj.weight.copy_(block.output.weight)
    x_KLE, seen_KME = torch.randn(2, 5, width), torch.randn(2, 3, width)
    mask_KM = torch.tensor([[True, True, False], [True, True, True]])
    attended, _ = theirs(block.norm(x_KLE), seen_KME, seen_KME, key_padding_mask=~mask_KM)
    y_KLE = x_KLE + torch.tanh(torch.tensor(0.7)) * attended
    expected = y_KLE + torch.tanh(torch.tensor(-0.3)) * block.down(
        torch.nn.functional.gelu(block.up(block.norm_ff(y_KLE)))
    )
    torch.testing.assert_close(block(x_KLE, seen_KME, mask_KM), expected)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("fuse", "options"), [FUSIONS[0], FUSIONS[3]])
def test_what_is_written_is_the_argmax_step_by_step(
    decoder: str, fuse: str, options: dict, pictures: list[Path], opened: Callable[..., MultimodalBackbone]
) -> None:
    """Rows in a batch, with a cache: as each row alone, the whole row read anew for every token. Beams too."""
    backbone = opened(decoder, fuse, options)
    rows, marker = rows_of(backbone, pictures), backbone.model.config.image_token_id
    with backbone.looking(), torch.no_grad():
        expected = []
        for row in rows:
            ids, media = torch.tensor([row["input_ids"]]), backbone.row_media([row])
            for _ in range(6):
                logits_V = backbone.model(input_ids=ids, **media).logits[0, -1]
                logits_V[marker] = -torch.inf  # a picture is read, and never written
                ids = torch.cat([ids, logits_V.argmax()[None, None]], dim=1)
            new = ids[0, len(row["input_ids"]) :].tolist()
            expected.append(new[: new.index(1)] if 1 in new else new)
        assert generate(backbone, rows, max_new_tokens=6) == expected
        assert len({tuple(one) for one in expected}) == len(rows)
        beams = generate(backbone, rows, max_new_tokens=5, num_beams=3)
        assert beams == [generate(backbone, [row], max_new_tokens=5, num_beams=3)[0] for row in rows]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("fuse", "options"), [FUSIONS[0], FUSIONS[3]])
def test_saved_whole_it_opens_without_the_rest(
    decoder: str, fuse: str, options: dict, pictures: list[Path], opened: Callable[..., MultimodalBackbone],
    tmp_path: Path,
) -> None:  # fmt: skip
    backbone = opened(decoder, fuse, options)
    (row, *_) = rows_of(backbone, pictures)
    given = {"input_ids": torch.tensor([row["input_ids"]]), **backbone.row_media([row])}
    backbone.model.save_pretrained(tmp_path / "saved")
    again = ComposedForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**given).logits, backbone.model(**given).logits)
        written = again.generate(**given, max_new_tokens=4)
    assert written.tolist() == backbone.model.generate(**given, max_new_tokens=4).tolist()


def test_pictures_that_come_after_the_writing_are_refused(opened: Callable[..., MultimodalBackbone]) -> None:
    with pytest.raises(Refused) as refused:
        opened("llama", "concatenation", {"when": "late"})
    (finding,) = refused.value.findings
    assert finding.code == "recipe.combination"
    assert "early" in finding.mend
