"""An environment of gymnasium as a policy meets it: pictures, an instruction and a state in, actions out.

Of minigrid's worlds the policy sees what the agent sees: 7 x 7 tiles ahead of it, 8 pixels each, and the mission. Of
any other one the picture is what it renders, the instruction is given by the caller, and the state is the observation
where that is a vector.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from luthier.types import Finding, Refused

TILE = 8


@dataclass
class Observation:
    """What is seen at one moment: ``pixels`` (H, W, 3) of 8 bits, the instruction, and a state where there is one."""

    pixels: Any
    instruction: str = ""
    state: tuple[float, ...] | None = None


@dataclass
class World:
    """One environment. ``names`` are those of discrete actions, by number; none where actions are numbers."""

    name: str
    instruction: str = ""
    environment: Any = None
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment = _made(self.name)
        self.names = _action_names(self.environment)

    def reset(self, seed: int) -> Observation:
        with quiet():
            seen, _ = self.environment.reset(seed=seed)
        return self._observed(seen)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool]:
        """(what is seen then, reward, whether it is over, whether it was cut off). ``action``: a name, or numbers."""
        seen, reward, over, cut, _ = self.environment.step(self._given(action))
        return self._observed(seen), float(reward), bool(over), bool(cut)

    def picture(self) -> Any:
        """(H, W, 3) of the whole scene, for people."""
        return self.environment.render()

    def expert(self) -> Any:
        """What says the next action, name by name, called with none: of BabyAI's worlds its own bot. Raises Refused."""
        if not has_expert(self.name):
            mend = "demonstrations of other worlds are given as rows"
            raise Refused(Finding("act.no-expert", "--env", f"no expert of {self.name} is known", mend))
        from minigrid.utils.baby_ai_bot import BabyAIBot

        bot, last = BabyAIBot(self.environment.unwrapped), None

        def following() -> str:
            nonlocal last
            last = bot.replan(last)
            return self.names[int(last)]

        return following

    def random(self, generator: Any) -> Any:
        """An action drawn from all that there are."""
        if self.names:
            return self.names[int(generator.integers(len(self.names)))]
        space = self.environment.action_space
        return generator.uniform(space.low, space.high).tolist()

    def close(self) -> None:
        self.environment.close()

    def _given(self, action: Any) -> Any:
        if not self.names:
            import numpy as np

            space = self.environment.action_space
            given = np.asarray(action, dtype=space.dtype)
            if given.shape != space.shape:
                what = f"an action of {given.size} numbers, where {self.name} takes {int(np.prod(space.shape))}"
                raise Refused(Finding("act.actions", "--env", what, "choose the environment that the run was made for"))
            return np.clip(given, space.low, space.high)
        if action not in self.names:
            what = f"{self.name} knows no action {action!r}; it has {', '.join(self.names)}"
            raise Refused(Finding("act.actions", "--env", what, "choose the environment that the run was made for"))
        return self.names.index(action)

    def _observed(self, seen: Any) -> Observation:
        if isinstance(seen, dict) and "image" in seen:
            return Observation(seen["image"], str(seen.get("mission", self.instruction)))
        state = tuple(float(value) for value in seen.ravel()) if len(seen.shape) == 1 else None
        pixels = seen if len(seen.shape) == 3 else self.environment.render()
        return Observation(pixels, self.instruction, state)


def has_expert(name: str) -> bool:
    """Whether somebody knows how to act there: of BabyAI's worlds their own bot does."""
    return name.startswith("BabyAI-")


def _made(name: str) -> Any:
    """Raises Refused where gymnasium is not installed or does not know the name."""
    if find_spec("gymnasium") is None or (name.startswith(("BabyAI-", "MiniGrid-")) and find_spec("minigrid") is None):
        what, mend = "environments need gymnasium and minigrid, which are not installed", "robotics"
        raise Refused(Finding("act.needs-extra", "--env", what, f'pip install "luthier[{mend}]"'))
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window
    with quiet():
        import gymnasium

        in_grid = name.startswith(("BabyAI-", "MiniGrid-"))
        if in_grid:
            import minigrid  # noqa: F401 - registers its worlds
        try:
            environment = gymnasium.make(name, render_mode="rgb_array")
        except gymnasium.error.Error as error:
            what = f"{name} can't be made: {str(error).splitlines()[0]}"
            raise Refused(Finding("act.environment", "--env", what, "give the name of a registered one")) from None
        if in_grid:
            from minigrid.wrappers import RGBImgPartialObsWrapper

            environment = RGBImgPartialObsWrapper(environment, tile_size=TILE)
    return environment


def _action_names(environment: Any) -> list[str]:
    """Of a discrete space the names that the environment gives its actions, or their numbers."""
    import gymnasium

    space = environment.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        return []
    own = vars(environment.unwrapped).get("actions")
    return [one.name for one in own] if own is not None else [str(at) for at in range(int(space.n))]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what minigrid prints while it draws a world."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def png(pixels: Any) -> bytes:
    """A picture as the bytes of a file."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG", compress_level=1)
    return held.getvalue()
