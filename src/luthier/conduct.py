"""Moved."""

from luthier.runs.conduct import *  # noqa: F403
