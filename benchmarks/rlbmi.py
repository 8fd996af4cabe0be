"""What stacking the agents of RLB-MI is worth: episodes x identities per second, all identities together
against one after the other.

    python benchmarks/rlbmi.py [--device cpu] [--identities 50] [--episodes 5] [--target vgg16] [RESULT.json]

The official networks and settings of conf/attack/rlbmi.yaml at 64 px with random weights: the GAN's
generator, a target of 1,000 classes, agents of width 256 that update on batches of 256 in every timed
episode; their memories start with a batch of zeros. Both ways take turns, and the best of their rounds
counts, as other jobs can only slow a machine down. Also derives how long 40,000 episodes of 300 identities
would take at the rate measured. On a CPU the rate per second of processor time is kept as well, which other
jobs disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from attacks.parts.sac import Replay
from attacks.rlbmi import RLBMI
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import initial_prior
from midre_exp.seeding import ItemRNG
from midre_exp.targets import build_target
from midre_exp.threat import Threat, Victim
from midre_exp.tracking.provenance import device_name

FULL = 40000 * 300  # episodes x identities of a complete attack
SHARED = 0.5  # a load average above this before the start means other jobs


def official() -> RLBMI:
    """The attack of conf/attack/rlbmi.yaml."""
    attack: RLBMI = build(
        without(
            plain(OmegaConf.load(CONF_DIR / "attack" / "rlbmi.yaml")), "defaults", "name", "judged", "crop"
        )
    )
    return attack


def prepared(attack: RLBMI, score: Callable[..., Tensor], people: Tensor, device: str, dim: int) -> Any:
    """A function that plays one episode, by number, of the agents of ``people``, whose memories hold a batch
    already.
    """
    rng = ItemRNG(0, "attack", items=people.cpu()).to(device)
    state = attack.agent.initial(rng, dim)
    like = state["actor.mu.bias"].squeeze(1)
    state |= {"best": like.new_zeros(len(people)), "latents": torch.zeros_like(like)}
    state["confidence_curve"] = like.new_zeros(len(people), 400)
    replay = Replay(attack.episodes, like)
    for number in range(attack.batch_size):
        replay.put(number, like, like, like[:, 0])

    def scores(latents: Tensor) -> Tensor:
        return score(latents, people)

    def play(episode: int) -> None:
        attack.train(scores, people, rng, state, replay, attack.batch_size + episode)
        attack.test(scores, people, rng, state, attack.batch_size + episode)

    return play


def rate(plays: list[Any], episodes: range, identities: int, device: str) -> tuple[float, float]:
    """Episodes x identities per second when each of ``plays`` plays its ``episodes`` after the one before it
    is done: by the progress, and by the processor time of this process, which other jobs do not take from it.
    """
    _wait(device)
    start = time.perf_counter(), time.process_time()
    for play in plays:
        for episode in episodes:
            play(episode)
    _wait(device)
    played = len(episodes) * identities
    return played / (time.perf_counter() - start[0]), played / (time.process_time() - start[1])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--identities", type=int, default=50)
    parser.add_argument("--singles", type=int, default=2, help="identities played one after the other")
    parser.add_argument("--episodes", type=int, default=5, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target", default="vgg16")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    node = OmegaConf.load(CONF_DIR / "attack" / "prior" / "gmi.yaml")
    prior = (
        initial_prior(plain(OmegaConf.merge(node, {"image_size": 64})))
        .eval()
        .requires_grad_(False)
        .to(given.device)
    )
    target = build_target(given.target, num_classes=1000).to(given.device)
    victim, attack = Victim.of(target, 1000, Threat.SCORES), official()

    def score(latents: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return victim.scores(attack.render(prior, latents, labels))

    people = torch.arange(given.identities, device=given.device)

    def agents(rows: Tensor) -> Any:
        return prepared(attack, score, rows, given.device, prior.latent_dim)

    ways = {
        "stacked": ([agents(people)], given.identities),
        "one at a time": ([agents(people[i : i + 1]) for i in range(given.singles)], given.singles),
    }
    load = os.getloadavg()[0]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for plays, count in ways.values():
        rate(plays, range(1), count, given.device)  # warm up
    for turn in range(given.rounds):
        episodes = range(1 + turn * given.episodes, 1 + (turn + 1) * given.episodes)
        for name, (plays, count) in ways.items():
            rates[name].append(rate(plays, episodes, count, given.device))
    measured, unshared = (
        {name: max(one[k] for one in found) for name, found in rates.items()} for k in (0, 1)
    )
    print(f"{'how':<16}{'episodes x identities / s':>28}{'full attack, hours':>22}")
    for name, value in measured.items():
        print(f"{name:<16}{value:>28.1f}{FULL / value / 3600:>22.1f}")
    print(f"stacking: {measured['stacked'] / measured['one at a time']:.1f}x")
    if given.result is not None:
        record: dict[str, Any] = {
            "benchmark": "rlbmi",
            "target": given.target,
            "images": (given.identities, 3, 64, 64),
            "classes": 1000,
            "identities": given.identities,
            "singles": given.singles,
            "episodes_per_round": given.episodes,
            "rounds": given.rounds,
            "statistic": "maximum",
            "device": device_name(torch.device(given.device)),
            "cpu_threads": given.threads,
            "machine_was_shared": load > SHARED,
            "load_average_before": load,
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "episodes_x_identities_per_second": measured,
            "stacked_over_one_at_a_time": measured["stacked"] / measured["one at a time"],
            "derived": {
                "full_attack": "40000 episodes x 300 identities at the rate above",
                "hours": {name: FULL / value / 3600 for name, value in measured.items()},
            },
        }
        if given.device == "cpu":
            record["episodes_x_identities_per_processor_second"] = unshared
        given.result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
