"""Moved."""

from luthier.runs.prepare import *  # noqa: F403
