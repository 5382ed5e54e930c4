"""φ: where text and pictures meet. One file per mechanism, one line here.

A mechanism's module has ``Options`` and ``Fusion``, a module of torch whose ``forward(text, inputs, pictures_IPD,
rows_I)`` gives the hidden states (K, L, width) of rows with pictures. It says where pictures stand: as tokens
``in_row``, or beside it; and whether a decoder ``writes`` on from what it gives. One that works between the blocks of
the text model is ``Inside`` it. ``similarity`` joins nothing: it gives a vector of a picture and one of a text.
"""

from luthier.registry import Registry

FUSIONS = Registry(
    projection="luthier.fusion.projection",
    concatenation="luthier.fusion.concatenation",
    cross_attention="luthier.fusion.cross_attention",
    modulation="luthier.fusion.modulation",
    similarity="luthier.fusion.similarity",
)
