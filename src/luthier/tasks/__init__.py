"""What a person wants. One file per task, one line here.

A task module has ``Options``, ``DEFAULTS`` and ``Task``: what a row must hold, the default objective, how an answer is
decoded, which metrics count.
"""

from luthier.registry import Registry

TASKS = Registry(
    act="luthier.tasks.act",
    answer="luthier.tasks.answer",
    classify="luthier.tasks.classify",
    chat="luthier.tasks.chat",
    code="luthier.tasks.code",
    complete="luthier.tasks.complete",
    plan="luthier.tasks.plan",
    prefer="luthier.tasks.prefer",
    reward="luthier.tasks.reward",
    match="luthier.tasks.match",
    reinforce="luthier.tasks.reinforce",
    retrieve="luthier.tasks.retrieve",
    caption="luthier.tasks.caption",
    summarize="luthier.tasks.summarize",
    tag="luthier.tasks.tag",
    transcribe="luthier.tasks.transcribe",
    translate="luthier.tasks.translate",
    vqa="luthier.tasks.vqa",
)
