"""Moved."""

from luthier.runs.run import *  # noqa: F403
