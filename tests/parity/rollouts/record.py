"""Record losses and gradients of TRL's online trainers. Not run by the tests: TRL is not among what they need.

python tests/parity/rollouts/record.py grpo      # with trl 1.16 installed; writes grpo.json beside it
python tests/parity/rollouts/record.py ppo       # with trl 1.12, the last that has PPO; writes ppo.json

Answers are given instead of drawn, and scored by a function. A case has what the trainer made of them with one model
(advantages, and for PPO everything of the trajectory), and its loss and gradient once that model has moved on.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CUDA_VISIBLE_DEVICES": ""}
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "preferences"), str(HERE), str(HERE.parents[1])]

import datasets  # noqa: E402
import moved  # noqa: E402
import small  # noqa: E402
import torch  # noqa: E402

import tiny  # noqa: E402

END, PROMPTS = 1, ["red cat and the", "the river"]
# Two groups of three: the terminator at the end of all but the last answer, which never ended.
ANSWERS = [[40, 41, 42, END], [50, END], [60, 61, 62, 63, 64, END], [70, 71, END], [80, END], [90, 91, 92, 93, 94, 95]]
REWARDS = [1.0, 0.25, 0.0, 0.5, 0.5, 2.0]
GRPO: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "scale_rewards": "group", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "scale_rewards": "group", "importance_sampling_level": "sequence", "epsilon": 0.02},
}


def main() -> None:
    {"grpo": record_grpo, "ppo": record_ppo}[sys.argv[1]]()


def config(kind: Any, **options: Any) -> Any:
    return kind(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False, **options
    )


def write(name: str, told: dict[str, Any]) -> None:
    (HERE / f"{name}.json").write_text(json.dumps({"trl": version("trl"), **told}) + "\n", encoding="utf-8")


def gradients(model: Any) -> dict[str, Any]:
    """Of every parameter but the tables of the vocabulary, of which the norm is kept."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    tables = {name for name, g in found.items() if len(g) == small.SIZES["vocab_size"]}
    return {
        "gradients": {name: g.tolist() for name, g in found.items() if name not in tables},
        "norms": {name: g.norm().item() for name, g in found.items() if name in tables},
    }


def record_grpo() -> None:
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head

    shared = {"num_generations": 3, "max_completion_length": 6, "per_device_train_batch_size": 6, "num_iterations": 2}
    cases = []
    for name, options in (GRPO | {"rloo": {}}).items():
        kinds = (RLOOConfig, RLOOTrainer) if name == "rloo" else (GRPOConfig, GRPOTrainer)
        made = kinds[1](
            model=small.build(0), args=config(kinds[0], beta=0.0, **shared, **options),
            reward_funcs=lambda prompts, completions, **more: REWARDS, processing_class=tiny.tokenizer(encoder=False),
            train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        )  # fmt: skip
        if name != "rloo":  # which takes KL from the reward
            made.args.use_bias_correction_kl = False  # TRL's own: KL times the ratio
            made.beta, made.ref_model = 0.3, small.build(1)
            add_fused_lm_head(made.ref_model)
        made._generate_single_turn = lambda *given, rloo=name == "rloo": ANSWERS if rloo else (ANSWERS, None)
        made.model.train()
        made.current_gradient_accumulation_steps = 1
        asked = [{"prompt": prompt} for prompt in PROMPTS for _ in range(3)]
        batch = made._generate_and_score_completions(asked)
        moved.on(made.model)
        loss = made._compute_loss(made.model, batch)
        loss.backward()
        rows = [
            {"prompt": ids[mask.bool()].tolist(), "answer": answer}
            for ids, mask, answer in zip(batch["prompt_ids"], batch["prompt_mask"], ANSWERS, strict=True)
        ]
        told = {"advantages": batch["advantages"].tolist(), "loss": loss.item(), **gradients(made.model)}
        cases.append({"case": name, "rows": rows, **told})
    write("grpo", {"rewards": REWARDS, "cases": cases})


class Stop(Exception):
    """After the second pass."""


def record_ppo() -> None:
    """All answers are of one length: where one is shorter TRL's last reward stands one place further than ours."""
    import trl.experimental.ppo.ppo_trainer as module
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    answers = torch.tensor(
        [answer[:5] for answer in ([*ANSWERS[0][:3], 43, 44], ANSWERS[2], ANSWERS[5], [*range(20, 25)])]
    )
    queries = [[10, 11, 12], [13, 14, 15], [16, 17, 18], [10, 12, 14]]
    policy, value = small.build(0), small.build(3, scores=True)
    made = PPOTrainer(
        args=config(
            PPOConfig, per_device_train_batch_size=4, num_ppo_epochs=2, num_mini_batches=1, total_episodes=4,
            response_length=5, kl_coef=0.3, gamma=0.97, lam=0.9, vf_coef=0.4, cliprange=0.1, cliprange_value=0.15,
            temperature=0.7, stop_token_id=399, learning_rate=0.0, num_sample_generations=0,
        ),
        model=policy, ref_model=small.build(1), reward_model=small.build(2, scores=True), value_model=value,
        processing_class=tiny.tokenizer(encoder=False),
        train_dataset=datasets.Dataset.from_list([{"input_ids": ids} for ids in queries]),
    )  # fmt: skip
    asked: list[Any] = []

    def generation(model: Any, given: Any, *more: Any) -> Any:
        """The answers, and the logits of the model that would have written them."""
        asked.append(given)
        whole = torch.cat([given, answers], 1)
        return whole, model(whole).logits[:, given.shape[1] - 1 : -1] / (0.7 + 1e-7)

    passes: list[dict[str, Any]] = []

    def backward(loss: Any) -> None:
        there = sys._getframe(1).f_locals
        if not passes:
            names = ("scores", "logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
            passes.append({name: there[name].tolist() for name in names})
            passes[0]["order"] = there["micro_batch_inds"].tolist()
            moved.on(policy)
            moved.on(value)
            return
        loss.backward()
        passes.append({
            "loss": loss.item(), "policy_loss": there["pg_loss"].item(), "value_loss": there["vf_loss"].item(),
            "policy": gradients(policy), "value": gradients(value),
        })  # fmt: skip
        raise Stop

    module.batch_generation = generation
    made.accelerator.backward = backward
    try:
        made.train()
    except Stop:
        (given,) = asked
        write("ppo", {"queries": given.tolist(), "answers": answers.tolist(), "made": passes[0], "moved": passes[1]})


if __name__ == "__main__":
    main()
