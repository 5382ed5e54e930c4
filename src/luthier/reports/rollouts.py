"""What is watched while a model learns from its own answers, one small chart each, by step."""

from __future__ import annotations

from luthier.reports.curves import figure, points
from luthier.reports.folder import RunFolder
from luthier.reports.markup import Html, element, join
from luthier.reports.svg import Series, thinned

# Title, and the records that are drawn in one chart, each with its name there.
CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Reward of the answers", {"reward": "sampled"}),
    ("KL to the reference, nats a token", {"kl": "k3"}),
    ("Length of an answer, tokens", {"length": "mean"}),
    ("Entropy, nats a token", {"entropy": "of what was drawn"}),
    ("Ratio to the model that wrote", {"ratio": "mean"}),
    ("Trainer to server, nats a token", {"gap": "mean", "gap_max": "largest"}),
    ("Share clipped", {"clip_fraction": "ratios", "value_clip_fraction": "values"}),
    ("Explained variance of the returns", {"explained_variance": "by the value model"}),
    ("Share of groups that teach nothing", {"equal_groups": "equal rewards", "redrawn": "drawn anew"}),
    ("Weight of KL", {"beta": "β"}),
)
STYLES = ("main", "quiet")


def rollouts(folder: RunFolder) -> Html:
    """Nothing for a run on rows that it was given."""
    records = folder.kind("train")
    if not any("reward" in record for record in records):
        return Html("")
    drawn = []
    for title, names in CHARTS:
        series = [
            Series(shown, thinned(points(records, name)), style)
            for (name, shown), style in zip(names.items(), STYLES, strict=False)
        ]
        drawn.append(figure(title, series, []))
    drawn = [chart for chart in drawn if chart]
    pairs = [element("div", drawn[at : at + 2], class_="pair") for at in range(0, len(drawn), 2)]
    return join(*pairs)
