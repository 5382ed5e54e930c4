"""Moved."""

from luthier.runs.final import *  # noqa: F403
