"""``luthier rollout``: a policy acts in an environment, and how often it succeeds is counted.

Each episode has a seed of its own, from a first one on, so that policy, expert and chance meet the same worlds; it is a
success where its rewards sum to more than 0. What each one did is kept, and some are recorded as a GIF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.environments.world import Observation, World, has_expert
from luthier.evaluate.proportions import wilson
from luthier.runs.acting.policy import Memory, Policy, open_policy
from luthier.runs.folder import write_json, write_lines
from luthier.types import Finding, Refused

TOGETHER = 32  # episodes that act side by side
MOST_STEPS = 1000  # of an episode that its world does not end
BLIND = 0.01  # of what is done, the least that another instruction must change


@dataclass
class Episode:
    """``frames`` are kept of those that are recorded."""

    seed: int
    instruction: str = ""
    actions: list[Any] = field(default_factory=list)
    reward: float = 0.0
    frames: list[Any] = field(default_factory=list)

    @property
    def success(self) -> bool:
        return self.reward > 0

    def as_dict(self) -> dict[str, Any]:
        told = {name: value for name, value in vars(self).items() if name != "frames"}
        return told | {"success": self.success, "steps": len(self.actions)}


@dataclass
class _Going:
    """An episode under way: its world, what is seen, and what its policy remembers."""

    world: World
    seen: Observation
    episode: Episode
    memory: Memory


Acts = Callable[[Sequence[_Going]], list[Any]]


def rollout(
    run: str, env: str, *, episodes: int = 100, seed: int = 0, record: int = 0, to: str | None = None,
    instruction: str = "", execute: int | None = None, ensemble: bool = False,
    temperature: float = 0.0, beside: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Success of a run, of the expert (where there is one) and of chance on the same seeds, with 95 % intervals.

    Writes ``rollout-<env>.json``, ``rollout-<env>.jsonl`` (an episode a line) and, with ``record``, a GIF of the first
    so many episodes into ``to`` (default: the run's folder). ``instruction`` is given in place of the world's own, and
    then the success is that of the world's own still. Raises Refused.
    """
    if episodes < 1:
        raise Refused(Finding("act.episodes", "--episodes", f"{episodes} episodes tell nothing", "give 1 or more"))
    policy = open_policy(run, execute=execute, ensemble=ensemble, temperature=temperature)
    _sees(policy, instruction)
    folder = Path(to) if to else policy.run.folder
    folder.mkdir(parents=True, exist_ok=True)

    def by_policy(going: Sequence[_Going]) -> list[Any]:
        seen = [_told(one.seen, instruction) for one in going]
        return policy(seen, [one.memory for one in going])

    seeds = range(seed, seed + episodes)
    done = _played(env, seeds, by_policy, record)
    told: dict[str, Any] = {"run": str(policy.run.folder), "env": env, "seeds": [seeds[0], seeds[-1]], **_counted(done)}
    told |= {"instruction": instruction or None, "temperature": temperature}
    if beside:
        told |= {name: _counted(_played(env, seeds, acts)) for name, acts in _others(env, seed)}
    name = f"rollout-{env}" + ("-instructed" if instruction else "")
    write_lines(folder / f"{name}.jsonl", [one.as_dict() for one in done])
    if record:
        from luthier.reports.recording import write_gif

        told["recording"] = str(write_gif(done[:record], folder / f"{name}.gif"))
    write_json(folder / f"{name}.json", told)
    return told


def _told(seen: Observation, instruction: str) -> Observation:
    return Observation(seen.pixels, instruction or seen.instruction, seen.state)


def _sees(policy: Policy, instruction: str) -> None:
    """Raises Refused for a policy that does the same whatever it is told, where it was taught several things."""
    changed = (policy.run.result.get("after") or {}).get("changed_by_instruction")
    if changed is None or changed["value"] >= BLIND:
        return
    what = f"another instruction changes {changed['value']:.1%} of what this run does: it does not heed what it is told"
    mend = "train it longer, on episodes in which the instruction decides, or choose another `model.fuse`"
    raise Refused(Finding("act.instruction-blind", str(policy.run.folder), what, mend))


def _others(env: str, seed: int) -> Iterator[tuple[str, Acts]]:
    """The expert, where the world has one, and chance."""
    experts: dict[int, Callable[[], str]] = {}

    def by_expert(going: Sequence[_Going]) -> list[Any]:
        for one in going:
            if not one.episode.actions:
                experts[one.episode.seed] = one.world.expert()
        return [experts[one.episode.seed]() for one in going]

    generators: dict[int, np.random.Generator] = {}

    def by_chance(going: Sequence[_Going]) -> list[Any]:
        for one in going:
            generators.setdefault(one.episode.seed, np.random.default_rng([seed, one.episode.seed]))
        return [one.world.random(generators[one.episode.seed]) for one in going]

    if has_expert(env):
        yield "expert", by_expert
    yield "random", by_chance


def _played(env: str, seeds: Sequence[int], acts: Acts, record: int = 0) -> list[Episode]:
    """The episodes of these seeds, in their order; as many as ``TOGETHER`` at a time, each in a world of its own."""
    waiting, recorded = list(seeds), set(seeds[:record])
    going: list[_Going] = []
    worlds = [World(env) for _ in range(min(TOGETHER, len(waiting)))]
    found: dict[int, Episode] = {}
    while waiting or going:
        while waiting and worlds:
            world, seed = worlds.pop(), waiting.pop(0)
            seen = world.reset(seed)
            going.append(_Going(world, seen, Episode(seed, seen.instruction), Memory(seed)))
        for one, action in zip(list(going), acts(going), strict=True):
            if one.episode.seed in recorded:
                one.episode.frames.append(one.world.picture())
            one.seen, reward, over, cut = one.world.step(action)
            one.episode.actions.append(action)
            one.episode.reward += reward
            if over or cut or len(one.episode.actions) >= MOST_STEPS:
                if one.episode.seed in recorded:
                    one.episode.frames.append(one.world.picture())
                found[one.episode.seed] = one.episode
                worlds.append(one.world)
                going.remove(one)
    for world in worlds:
        world.close()
    return [found[seed] for seed in seeds]


def _counted(done: Sequence[Episode]) -> dict[str, Any]:
    won = sum(one.success for one in done)
    low, high = wilson(won, len(done))
    rate = {"value": won / len(done), "low": low, "high": high, "n": len(done)}
    steps = float(np.mean([len(one.actions) for one in done]))
    return {"success": rate, "steps": steps, "reward": float(np.mean([one.reward for one in done]))}
