"""``luthier rollout``, ``demonstrate`` and ``serve``: what they call, and how the answer is printed."""

from __future__ import annotations

import argparse
from pathlib import Path

from luthier.cli.say import say


def rollout(given: argparse.Namespace) -> int:
    from luthier.runs.acting.closed_loop import rollout

    told = rollout(
        given.run, given.env, episodes=given.episodes, seed=given.seed, record=given.record, to=given.to,
        instruction=given.instruction, execute=given.execute, ensemble=given.ensemble, temperature=given.temperature,
        beside=not given.alone,
    )  # fmt: skip
    if given.json:
        say(told)
        return 0
    print(f"{given.env}: {told['success']['n']} episodes, seeds {told['seeds'][0]} to {told['seeds'][1]}")
    for name, one in (("policy", told), *((name, told[name]) for name in ("expert", "random") if name in told)):
        rate = one["success"]
        span = f"({rate['low']:.3f} to {rate['high']:.3f})"
        print(f"{name:<8} success {rate['value']:.3f} {span}   {one['steps']:.1f} steps   reward {one['reward']:.3f}")
    if "recording" in told:
        print(f"recording: {told['recording']}")
    return 0


def demonstrate(given: argparse.Namespace) -> int:
    from luthier.environments.demonstrations import write_demonstrations

    told = write_demonstrations(given.env, given.episodes, given.seed, Path(given.to))
    if given.json:
        say(told)
    else:
        print(
            f"{told['episodes']} episodes, {told['steps']} steps, {told['pictures']} different pictures: {told['file']}"
        )
    return 0


def serve(given: argparse.Namespace) -> int:
    from luthier.runs.acting.serve import serve

    serve(given.run, given.port, lambda address: print(f"{given.run}: POST {address}/act", flush=True))
    return 0
