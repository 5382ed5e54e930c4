"""A run's model in another form, each followed by a check that it gives the same outputs. One file per form."""

from luthier.registry import Registry

EXPORTS = Registry(
    merged="luthier.export.merged",
)
