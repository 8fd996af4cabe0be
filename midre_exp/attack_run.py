"""A whole attack on a victim, in chunks that fit into memory: resumed after a kill, in shards, merged.

What an attack computes is in ``midre_exp.attack`` and in the plugin; nothing here changes a number.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from midre_exp.attack import Attack, AttackResult, Reconstructions, V, apply, split_evenly, to_uint8
from midre_exp.errors import ConfigError
from midre_exp.loop import REMEDY, Loop
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import VICTIMS, Victim
from midre_exp.weights import checkpoint
from midre_exp.weights.finite import require_finite

#: Columns of a chunk besides the attack's own details.
_COLUMNS = ("images", "latents", "labels", "confidence", "queries")
#: Of a shard: the queries of ``initialise``, which every shard spends anew and the whole attack once.
_INITIAL_QUERIES = "initial_queries"


def run_attack(
    attack: Attack[V],
    victim: V,
    prior: Prior,
    *,
    seed: int = 0,
    work: Path | None = None,
    runtime: Runtime | None = None,
) -> Reconstructions:
    """Attack every (identity, restart).

    Finished chunks stay in the folder ``work`` and are not computed again after an interruption; None: a
    temporary folder. Raises ConfigError for a victim of another threat model than the attack's and for more
    identities than the target has classes, DivergedError when latents, images or the victim's answers are not
    finite.
    """
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        everyone = range(attack.identities)
        shard = run_shard(
            attack, victim, prior, everyone, seed=seed, work=folder, runtime=runtime or Runtime()
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
) -> dict[str, Tensor]:
    """Attack some of the identities; ``merge_shards`` makes the shards of all into what ``run_attack``
    returns, number by number.

    The columns of ``Reconstructions`` and details by name, [n, ...] on the CPU, and the queries of
    ``initialise``. Raises ConfigError as ``run_attack``, and when items of one group would be separated.
    """
    _check_victim(attack, victim)
    _check_groups(attack, identities)
    prior.eval().requires_grad_(False).to(runtime.device)
    job = _Job(attack, victim, prior, _shared_rng(seed, runtime), work, runtime)
    items = _Items.of(identities, attack.restarts, seed)
    initial = _initialise(job, items)
    columns = _join(_invert_in_chunks(job, items, initial.tensors.get("start")))
    selection = _select(job, items, columns)
    columns["queries"] = columns["queries"] + split_evenly(selection.queries, len(items))
    queries = torch.tensor(initial.queries)
    return {**columns, **selection.tensors, "restarts": items.restarts, _INITIAL_QUERIES: queries}


def merge_shards(shards: Sequence[dict[str, Tensor]]) -> Reconstructions:
    """The whole attack of its shards in the order of the identities; empties them. The queries of
    ``initialise`` are counted once. Raises DivergedError for numbers that are not finite.
    """
    initial = [int(shard.pop(_INITIAL_QUERIES)) for shard in shards]
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

    def require_finite(self, tensors: dict[str, Tensor], where: str) -> None:
        """Raise DivergedError unless these and all answers of the victim until now are finite."""
        self.victim.check_answers()
        require_finite(tensors, f"{type(self.attack).__name__} {where}", REMEDY)


@dataclass(frozen=True)
class _Items:
    """The items of some consecutive identities."""

    identities: range
    labels: Tensor  # int64 [n]
    restarts: Tensor  # int64 [n]
    rng: ItemRNG  # n rows

    @classmethod
    def of(cls, identities: range, restarts: int, seed: int) -> _Items:
        labels = torch.arange(identities.start, identities.stop).repeat_interleave(restarts)
        numbers = torch.arange(restarts).repeat(len(identities))
        return cls(identities, labels, numbers, ItemRNG(seed, "attack", items=(labels, numbers)))

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


def _shared_rng(seed: int, runtime: Runtime) -> ItemRNG:
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
    path = job.work / items.file("initialised")
    queries = job.victim.queries
    if (saved := _load_phase(path, job.victim)) is not None:
        return saved
    start = job.attack.initialise(
        job.victim, job.prior, items.labels, shared_rng=job.shared_rng, runtime=job.runtime
    )
    return _save_phase(job, path, {} if start is None else {"start": start}, job.victim.queries - queries)


def _select(job: _Job[V], items: _Items, columns: dict[str, Tensor]) -> _Phase:
    """The attack's final selection among all items."""
    path = job.work / items.file("selected")
    queries = job.victim.queries
    if (saved := _load_phase(path, job.victim)) is not None:
        return saved
    details = {name: value for name, value in columns.items() if name not in _COLUMNS}
    tensors = job.attack.select(
        job.victim,
        job.prior,
        columns["labels"],
        columns["latents"],
        details,
        shared_rng=job.shared_rng,
        runtime=job.runtime,
    )
    return _save_phase(job, path, tensors, job.victim.queries - queries)


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


def _invert_in_chunks(job: _Job[V], items: _Items, start: Tensor | None) -> list[dict[str, Tensor]]:
    """The chunks of all items in order; from the first that does not fit into memory on, in smaller ones."""
    size = max(1, job.runtime.chunk // job.attack.group_size) * job.attack.group_size
    chunks, done = [], 0
    while done < len(items):
        rows = slice(done, min(done + size, len(items)))
        queries = job.victim.queries
        try:
            chunks.append(_invert_or_load(job, items, rows, None if start is None else start[rows]))
            done = rows.stop
        except torch.cuda.OutOfMemoryError as error:
            job.victim.queries = queries
            size = _half(rows.stop - rows.start, job.attack.group_size, error)
            job.runtime.say(
                f"out of memory with {rows.stop - rows.start} items at once: going on with half of them"
            )
    return chunks


def _half(items: int, group_size: int, error: Exception) -> int:
    """How many items half a chunk has. Raises ConfigError when it cannot be divided."""
    groups = -(-items // group_size)
    if groups < 2:
        raise ConfigError(
            f"the GPU has not enough memory for {items} item(s) of this attack, which cannot be divided "
            "further; use runtime.device=cpu or a GPU with more memory"
        ) from error
    torch.cuda.empty_cache()
    return groups // 2 * group_size


def _invert_or_load(job: _Job[V], items: _Items, rows: slice, start: Tensor | None) -> dict[str, Tensor]:
    """The columns of one chunk, from its file if an interrupted attempt had finished it."""
    first = items.identities.start * job.attack.restarts + rows.start
    name = f"{first}-{first + rows.stop - rows.start}"
    path, unfinished = job.work / f"items-{name}.pt", job.work / f"unfinished-{name}"
    columns = checkpoint.load(path)
    if columns is None:
        columns = _invert_chunk(job, items, rows, start, first, unfinished)
        checkpoint.save(path, columns)
        shutil.rmtree(unfinished, ignore_errors=True)
    job.victim.queries += int(columns["queries"].sum())
    return columns


def _invert_chunk(
    job: _Job[V], items: _Items, rows: slice, start: Tensor | None, first: int, unfinished: Path
) -> dict[str, Tensor]:
    """The columns of one chunk, computed; leaves the victim's count as it was."""
    device, victim = job.runtime.device, job.victim
    labels, queries = items.labels[rows].to(device), victim.queries
    unfinished.mkdir(parents=True, exist_ok=True)
    loop = Loop(
        unfinished / "state.pt",
        f"{type(job.attack).__name__} items {first}-{first + len(labels) - 1}",
        job.runtime,
        victim,
        start=None if start is None else start.to(device),
        shared_rng=job.shared_rng,
        first_item=first,
    )
    found = job.attack.invert(victim, job.prior, labels, items.rng[rows].to(device), loop)
    spent = victim.queries - queries
    if isinstance(found, Tensor):
        found = AttackResult(found, split_evenly(spent, len(labels)))
    if int(found.queries.sum()) != spent:
        raise RuntimeError(
            f"{type(job.attack).__name__} reports {int(found.queries.sum())} queries, its victim {spent}"
        )
    chosen = labels if found.labels is None else found.labels
    columns = _columns(job, found, chosen, f"items {first}-{first + len(labels) - 1}")
    victim.queries = queries
    return columns


def _columns(job: _Job[V], found: AttackResult, labels: Tensor, where: str) -> dict[str, Tensor]:
    """A chunk's columns on the CPU: images in 8 bit, and the target's agreement on what it sees of them."""
    attack = job.attack
    with torch.no_grad():
        images = job.prior.generate(found.latents, labels) if found.images is None else found.images
        job.require_finite({"latents": found.latents, "images": images}, where)  # 8 bits cannot tell
        seen = to_uint8(apply(attack.image_to_target, images))
        picture = seen if attack.picture is None else to_uint8(apply(attack.picture, images))
    columns = {
        **found.details,
        "images": picture,
        "latents": found.latents,
        "labels": labels,
        "confidence": job.victim.confidence(seen.float() / 255, labels),  # not a query of the attack
        "queries": found.queries,
    }
    job.require_finite(columns, where)
    return {name: value.cpu() for name, value in columns.items()}


def _join(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of all parts, one below the other. Empties the parts: images take gigabytes, which are not
    to be held twice.
    """
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
