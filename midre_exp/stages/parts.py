"""What the stages of one run share: data, defense and attack, made once and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from midre_exp.attack import Attack, build_attack
from midre_exp.data.base import Dataset
from midre_exp.defense import Defense, compose_defenses
from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, build, trusted_packages
from midre_exp.plan.deployment import trained_defense
from midre_exp.plan.keys import is_pretrained_here, learns_from_others, node_of
from midre_exp.plan.validate import is_line
from midre_exp.stages.seen_by import seen_by
from midre_exp.threat import AnyVictim


@dataclass(frozen=True)
class Parts:
    """``private`` and ``public`` images, the private ones as the evaluator sees them (``evaluation``), those
    that target and evaluator are pre-trained on, those of other people that the defense needs (``others``),
    those that a verifier (``verification``) and a reader of traits (``traits``) learn from, None where there
    is none, the composed ``defense``, what of it shapes the network (``trained``), the composition of none
    (``undefended``), and the ``attack``. ``jury``: the same as each further judge sees them.
    """

    private: Dataset
    public: Dataset
    evaluation: Dataset
    pretraining: Dataset | None
    evaluator_pretraining: Dataset | None
    others: Dataset | None
    verification: Dataset | None
    traits: Dataset | None
    defense: Defense
    trained: Defense
    undefended: Defense
    attack: Attack[AnyVictim]
    jury: Mapping[str, Parts] = field(default_factory=dict)


def make_parts(settings: Settings) -> Parts:
    """The parts of a run. Raises UserError for one that its config cannot make."""
    trusted = trusted_packages(settings)

    def images(name: str, settings: Settings = settings) -> Dataset:
        made: Dataset = build(node_of(settings["data"], name), kind=Dataset, trusted=trusted)
        return made

    def pool(settings: Settings) -> Dataset | None:
        return (
            images("evaluator_pretraining", settings) if is_pretrained_here(settings["evaluator"]) else None
        )

    defense = compose_defenses(settings["defense"], trusted)
    if not is_line(defense.label):
        raise ConfigError(
            f"the label {defense.label!r} of defense {'+'.join(settings['defense'])} cannot stand in a "
            "table; let it be one line of text"
        )
    parts = Parts(
        private=images("private"),
        public=images("public"),
        evaluation=images("evaluation"),
        pretraining=images("pretraining") if is_pretrained_here(settings["target"]) else None,
        evaluator_pretraining=pool(settings),
        others=images("others") if learns_from_others(settings) else None,
        verification=images("verification") if settings.get("open_set") else None,
        traits=images("traits") if settings.get("traits") else None,
        defense=defense,
        trained=compose_defenses(trained_defense(settings), trusted),
        undefended=compose_defenses({}),
        attack=build_attack(settings["attack"], trusted),
    )
    seen = {judge: seen_by(settings, judge) for judge in settings.get("jury") or ()}
    jury = {
        judge: replace(parts, evaluation=images("evaluation", own), evaluator_pretraining=pool(own))
        for judge, own in seen.items()
    }
    return replace(parts, jury=jury)
