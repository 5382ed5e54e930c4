"""Sphinx: Markdown pages by MyST, the furo theme. ``make docs``; a warning is an error."""

project = "Luthier"
author = "The Luthier authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Luthier"
exclude_patterns = ["_build"]
