"""What must hold before the first step. One function per check, one line here.

A check takes a ``Prepared`` run and returns findings, each with a stable code, a place, a cause and a mend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.checks.machine import disk_space
from luthier.checks.model import ends_where_read, finite_weights, ids_fit, tokenizer_knows, weights_belong
from luthier.checks.parameters import gradients_flow
from luthier.checks.pictures import pictures_converted, pictures_seen, places_kept, text_read
from luthier.checks.rows import terminator_supervised, words_read
from luthier.checks.sounds import letters_known, sounds_converted
from luthier.checks.teacher import rows_fit_teacher, same_tokens
from luthier.checks.template import dated, markers_in_words
from luthier.types import Finding

if TYPE_CHECKING:
    from luthier.runs.prepared import Prepared

CHECKS: list[Callable[[Prepared], list[Finding]]] = [
    ids_fit,
    tokenizer_knows,
    weights_belong,
    ends_where_read,
    finite_weights,
    terminator_supervised,
    words_read,
    markers_in_words,
    dated,
    pictures_converted,
    places_kept,
    sounds_converted,
    letters_known,
    same_tokens,
    rows_fit_teacher,
    gradients_flow,
    pictures_seen,
    text_read,
    disk_space,
]


def run_checks(prepared: Prepared) -> list[Finding]:
    """All of them, in order. A check that needs a sound model comes after the one that tests it."""
    findings: list[Finding] = []
    for check in CHECKS:
        if check in (gradients_flow, pictures_seen, text_read) and any(
            finding.severity == "error" for finding in findings
        ):
            continue  # ids outside the vocabulary or non-finite weights make a trial step meaningless
        findings += check(prepared)
    return findings
