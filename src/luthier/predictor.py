"""Moved."""

from luthier.runs.predictor import *  # noqa: F403
