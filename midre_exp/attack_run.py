"""A whole attack on a victim, in chunks that fit into memory: resumed after a kill, in shards, merged.

What an attack computes is in ``midre_exp.attack`` and in the plugin; nothing here changes a number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from midre_exp.attack import Attack, AttackResult, Reconstructions, V, apply, split_evenly
from midre_exp.attack_work import Columns, Unfinished, finished_items, gaps, keep_items
from midre_exp.errors import ConfigError, OutOfMemory, is_out_of_memory
from midre_exp.loop import REMEDY, Loop, Trial, TrialOver
from midre_exp.memory.batches import Shortage, attempt, in_batches
from midre_exp.memory.chunk_size import ChunkSize, Divisible, too_little
from midre_exp.plan.deployment import NETWORK_CONFIDENCE
from midre_exp.priors.base import Prior
from midre_exp.runtime import NoTracker, Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import VICTIMS, AnyVictim, Victim
from midre_exp.tracking.provenance import device_name
from midre_exp.weights import checkpoint
from midre_exp.weights.finite import require_finite

#: Columns of a chunk besides the attack's own details.
_COLUMNS = ("images", "latents", "labels", "confidence", "queries")
#: Of a shard: the queries of ``initialise``, which every shard spends anew and the whole attack once.
INITIAL_QUERIES = "initial_queries"


def run_attack(
    attack: Attack[V],
    victim: V,
    prior: Prior,
    *,
    seed: int = 0,
    work: Path | None = None,
    runtime: Runtime | None = None,
    deployed: V | None = None,
    network: AnyVictim | None = None,
) -> Reconstructions:
    """Attack every (identity, restart). ``deployed``: the target whose confidence the result tells, where the
    attack asks a changed copy of it. ``network``: the target behind what it answers at deployment, whose
    confidence is kept as the detail ``network_confidence``.

    Finished items stay in the folder ``work`` and are not computed again after an interruption, whatever
    ``runtime.chunk`` is then; None: a temporary folder. Raises ConfigError for a victim of another threat
    model than the attack's and for more identities than the target has classes, DivergedError when latents,
    images or the victim's answers are not finite, OutOfMemory when not even one item fits.
    """
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        everyone = range(attack.identities)
        shard = run_shard(
            attack,
            victim,
            prior,
            everyone,
            seed=seed,
            work=folder,
            runtime=runtime or Runtime(),
            deployed=deployed,
            network=network,
        )
    return merge_shards([shard])


def run_shard(
    attack: Attack[V],
    victim: V,
    prior: Prior,
    identities: range,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    deployed: V | None = None,
    network: AnyVictim | None = None,
) -> Columns:
    """Attack some of the identities; ``merge_shards`` makes the shards of all into what ``run_attack``
    returns, number by number.

    The columns of ``Reconstructions`` and details by name, [n, ...] on the CPU, and the queries of
    ``initialise``. Raises ConfigError as ``run_attack``, and when items of one group would be separated.
    """
    _check_victim(attack, victim)
    _check_groups(attack, identities)
    prior.to(runtime.device).freeze()
    job = _Job(attack, victim, prior, shared_rng(seed, runtime), work, runtime, deployed or victim, network)
    items = _Items.of(identities, attack.restarts, seed)
    attack.prepare(prior, shared_rng=job.shared_rng, runtime=runtime)
    initial = _initialise(job, items)
    blocks, runtime = _invert_in_chunks(job, items, initial.tensors.get("start"))
    columns = _join(blocks)
    selection = _select(job, items, columns, runtime)
    columns["queries"] = columns["queries"] + split_evenly(selection.queries, len(items))
    shared = initial.queries if attack.shares_starts else 0
    columns["queries"] = columns["queries"] + split_evenly(initial.queries - shared, len(items))
    queries = torch.tensor(shared)
    return {**columns, **selection.tensors, "restarts": items.restarts, INITIAL_QUERIES: queries}


def merge_shards(shards: Sequence[Columns]) -> Reconstructions:
    """The whole attack of its shards in the order of the identities; empties them. The queries of
    ``initialise`` are counted once. Raises DivergedError for numbers that are not finite.
    """
    initial = [int(shard.pop(INITIAL_QUERIES)) for shard in shards]
    columns = _join(shards)
    columns["queries"] = columns["queries"] + split_evenly(initial[0], len(columns["labels"]))
    require_finite(columns, "the attack", REMEDY)  # also of parts that older code left
    own = {name: columns.pop(name) for name in (*_COLUMNS, "restarts")}
    return Reconstructions(details=columns, **own)


@dataclass(frozen=True)
class _Job(Generic[V]):
    """What all chunks of an attack have in common."""

    attack: Attack[V]
    victim: V
    prior: Prior
    shared_rng: ItemRNG
    work: Path
    runtime: Runtime
    deployed: V  # who is asked how confident the target is in the end
    network: AnyVictim | None  # the same behind what it answers at deployment

    def require_finite(self, tensors: dict[str, Tensor], where: str) -> None:
        """Raise DivergedError unless these and all answers of the victim until now are finite."""
        self.victim.check_answers()
        self.deployed.check_answers()
        require_finite(tensors, f"{type(self.attack).__name__} {where}", REMEDY)


@dataclass(frozen=True)
class _Items:
    """The items of some consecutive identities."""

    identities: range
    numbers: range  # n of them, in the whole attack
    labels: Tensor  # int64 [n]
    restarts: Tensor  # int64 [n]
    rng: ItemRNG  # n rows

    @classmethod
    def of(cls, identities: range, restarts: int, seed: int) -> _Items:
        labels = torch.arange(identities.start, identities.stop).repeat_interleave(restarts)
        turns = torch.arange(restarts).repeat(len(identities))
        numbers = range(identities.start * restarts, identities.stop * restarts)
        return cls(identities, numbers, labels, turns, ItemRNG(seed, "attack", items=(labels, turns)))

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, phase: str) -> str:
        """The file that a phase before or after the chunks leaves in the work folder."""
        return f"{phase}-{self.identities.start}-{self.identities.stop}.pt"


@dataclass(frozen=True)
class _Phase:
    """What ``initialise`` or ``select`` returned, on the CPU, and its queries."""

    tensors: dict[str, Tensor]
    queries: int


def shared_rng(seed: int, runtime: Runtime) -> ItemRNG:
    """One random stream, for what is drawn for all items at once."""
    return ItemRNG(seed, "attack", "common", items=torch.zeros(1, dtype=torch.long)).to(runtime.device)


def _check_victim(attack: Attack[V], victim: Victim) -> None:
    name, wanted = type(attack).__name__, VICTIMS[attack.threat]
    if isinstance(victim, Victim) and not isinstance(victim, wanted):
        raise ConfigError(
            f"{name} attacks a {wanted.__name__} and was given a {type(victim).__name__}; "
            f"use Victim.of(network, num_classes, Threat.{attack.threat.name})"
        )
    if attack.identities > victim.num_classes:
        raise ConfigError(
            f"attack.identities={attack.identities} exceeds the {victim.num_classes} classes of the target; "
            "lower attack.identities"
        )


def _check_groups(attack: Attack[V], identities: range) -> None:
    """Raise ConfigError unless a shard of these identities begins and ends with a group of items."""
    last = identities.stop == attack.identities
    ends = (identities.start * attack.restarts, 0 if last else identities.stop * attack.restarts)
    if any(end % attack.group_size for end in ends):
        raise ConfigError(
            f"{type(attack).__name__} computes {attack.group_size} reconstructions together, "
            "which attack.shard would separate; use fewer shards or none"
        )


def _initialise(job: _Job[V], items: _Items) -> _Phase:
    """The attack's starts for all items at once as tensor ``start``, if it chooses any."""

    def initialise(runtime: Runtime) -> dict[str, Tensor]:
        start = job.attack.initialise(
            job.victim, job.prior, items.labels, shared_rng=job.shared_rng, runtime=runtime
        )
        return {} if start is None else {"start": start}

    return _phase(job, job.work / items.file("initialised"), initialise, job.runtime)


def _select(job: _Job[V], items: _Items, columns: Columns, runtime: Runtime) -> _Phase:
    """The attack's final selection among all items."""
    unseen = (*_COLUMNS, NETWORK_CONFIDENCE)
    details = {name: value for name, value in columns.items() if name not in unseen}

    def select(runtime: Runtime) -> dict[str, Tensor]:
        return job.attack.select(
            job.victim,
            job.prior,
            columns["labels"],
            columns["latents"],
            details,
            shared_rng=job.shared_rng,
            runtime=runtime,
        )

    return _phase(job, job.work / items.file("selected"), select, runtime)


def _phase(
    job: _Job[V], path: Path, compute: Callable[[Runtime], dict[str, Tensor]], runtime: Runtime
) -> _Phase:
    """What a phase before or after the chunks gives, kept in ``path``; with half as many items at once as
    often as memory is short.
    """
    if (saved := _load_phase(path, job.victim)) is not None:
        return saved
    queries = job.victim.queries
    while isinstance(found := attempt(partial(compute, runtime), job.victim), Shortage):
        if runtime.chunk == 1 or found.is_final:
            raise OutOfMemory(
                f"{type(job.attack).__name__} ({path.stem}): {too_little(job.runtime.device, found)}"
            )
        runtime = replace(runtime, chunk=runtime.chunk // 2)
        job.runtime.say(f"out of memory ({path.stem}): once more with at most {runtime.chunk} items at once")
    return _save_phase(job, path, found, job.victim.queries - queries)


def _load_phase(path: Path, victim: Victim) -> _Phase | None:
    """What an interrupted attempt had finished; its queries count as the victim's."""
    saved = checkpoint.load(path)
    if saved is None:
        return None
    victim.queries += saved["queries"]
    return _Phase(saved["tensors"], saved["queries"])


def _save_phase(job: _Job[V], path: Path, tensors: dict[str, Tensor], queries: int) -> _Phase:
    job.require_finite(tensors, f"({path.stem})")
    phase = _Phase({name: value.detach().cpu() for name, value in tensors.items()}, queries)
    checkpoint.save(path, {"tensors": phase.tensors, "queries": phase.queries})
    return phase


def _invert_in_chunks(job: _Job[V], items: _Items, start: Tensor | None) -> tuple[list[Columns], Runtime]:
    """The columns of all items in order, finished ones from their files, the others in chunks: from the first
    that does not fit into memory on, in smaller ones. Also the runtime that says what fitted.
    """
    blocks = finished_items(job.work, items.numbers)
    for _, columns in blocks:
        job.victim.queries += int(columns["queries"].sum())
    free = list(gaps(items.numbers, [rows for rows, _ in blocks]))
    attack = job.attack
    unfinished = Unfinished(job.work, items.numbers, attack.group_size, job.runtime.say)
    every = Divisible(type(attack).__name__, len(items), attack.group_size, attack.items_per_row)
    size = ChunkSize(job.work, every, job.runtime, device_name(job.runtime.device))
    if free:
        size.plan(partial(_first_step, job, items, start), job.victim)
    while free:
        chunk = unfinished.next_chunk(free[0], size.items)
        work = partial(_invert_chunk, job, items, chunk, start, unfinished.path(chunk))
        found = attempt(work, job.victim)
        if isinstance(found, Shortage):
            size.halve(len(chunk), found)
            continue
        keep_items(job.work, chunk, found)
        unfinished.drop(chunk)
        job.victim.queries += int(found["queries"].sum())
        blocks.append((chunk, found))
        free[:1] = [range(chunk.stop, free[0].stop)] if chunk.stop < free[0].stop else []
    unfinished.close()
    return [columns for _, columns in sorted(blocks, key=lambda block: block[0].start)], size.runtime


def _first_step(job: _Job[V], items: _Items, start: Tensor | None, groups: int) -> None:
    """The first step of the first ``groups`` of the items; nothing of it is kept."""
    rows = slice(0, min(groups * job.attack.group_size, len(items)))
    device = job.runtime.device
    trial = Trial(
        job.work / "trial",
        type(job.attack).__name__,
        replace(job.runtime, progress=False, log_every=0.0, tracker=NoTracker(), quiet=True),
        job.victim,
        start=None if start is None else start[rows].to(device),
        shared_rng=job.shared_rng,
    )
    labels, rng = items.labels[rows].to(device), items.rng[rows].to(device)
    with suppress(TrialOver):
        job.attack.invert(job.victim, job.prior, labels, rng, trial)


def _invert_chunk(
    job: _Job[V], items: _Items, chunk: range, start: Tensor | None, unfinished: Path
) -> Columns:
    """The columns of one chunk, computed; leaves the victim's count as it was."""
    device, victim = job.runtime.device, job.victim
    rows = slice(chunk.start - items.numbers.start, chunk.stop - items.numbers.start)
    labels, queries = items.labels[rows].to(device), victim.queries
    where = f"items {chunk.start}-{chunk.stop - 1}"
    loop = Loop(
        unfinished / "state.pt",
        f"{type(job.attack).__name__} {where}",
        job.runtime,
        victim,
        start=None if start is None else start[rows].to(device),
        shared_rng=job.shared_rng,
        first_item=chunk.start,
    )
    try:
        found = job.attack.invert(victim, job.prior, labels, items.rng[rows].to(device), loop)
        spent = victim.queries - queries
        if isinstance(found, Tensor):
            found = AttackResult(found, split_evenly(spent, len(labels)))
        if int(found.queries.sum()) != spent:
            raise RuntimeError(
                f"{type(job.attack).__name__} reports {int(found.queries.sum())} queries, its victim {spent}"
            )
        chosen = labels if found.labels is None else found.labels
        columns = _columns(job, found, chosen, where)
    except Exception as error:
        if is_out_of_memory(error):
            loop.save_ends()  # of which smaller chunks take their parts
        raise
    victim.queries = queries
    return columns


def _columns(job: _Job[V], found: AttackResult, labels: Tensor, where: str) -> Columns:
    """A chunk's columns on the CPU: images in 8 bit, and the target's agreement on what it sees of them."""
    attack = job.attack
    job.require_finite({"latents": found.latents}, where)

    @torch.no_grad()
    def look(part: slice) -> tuple[Tensor, Columns]:
        latents, theirs = found.latents[part], labels[part]
        images = job.prior.generate(latents, theirs) if found.images is None else found.images[part]
        job.require_finite({"images": images}, where)  # 8 bits cannot tell
        exact = apply(attack.image_to_target, images)
        seen = attack.in_eight_bits(exact)
        shown = exact if attack.picture is None else attack.pictures(images)
        picture = seen if attack.picture is None else attack.in_eight_bits(shown)
        floats = {"floats": shown.float().cpu()} if attack.keep_floats else {}
        del images  # of the generator's size
        before = job.victim.queries
        examined = attack.examine(job.victim, exact, theirs, shared_rng=job.shared_rng, runtime=job.runtime)
        spent = split_evenly(job.victim.queries - before, len(theirs)).to(found.queries.device)
        confidence = job.deployed.confidence(seen.float() / 255, theirs)  # not a query of the attack
        columns = {**examined, **floats, "confidence": confidence, "queries": found.queries[part] + spent}
        if job.network is not None:
            columns[NETWORK_CONFIDENCE] = job.network.confidence(seen.float() / 255, theirs)
        return picture.cpu(), columns

    at_once = min(len(labels), job.runtime.chunk)
    looks = list(in_batches(look, len(labels), at_once, what="reconstructions", victim=job.victim))
    columns = {
        **found.details,
        **{name: torch.cat([told[name] for _, told in looks]) for name in looks[0][1]},
        "images": torch.cat([picture for picture, _ in looks]),
        "latents": found.latents,
        "labels": labels,
    }
    job.require_finite(columns, where)
    return {name: value.cpu() for name, value in columns.items()}


def _join(parts: Sequence[Columns]) -> Columns:
    """The columns of all parts, one below the other. Empties the parts: images take gigabytes, which are not
    to be held twice.
    """
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
