"""Every choice and key of a run, as ``--help`` prints them."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from midre_exp.plan.compose import packaged_configs

#: Groups as a user types them. What only some choices have stands behind the first choice that has it; a name
#: behind @ is where the options of a group that serves several places are put.
GROUPS = (
    "setup",
    "scale",
    "data",
    "data=celeba_ffhq data/dataset@data.private",
    "data=celeba_ffhq data/dataset@data.public",
    "target",
    "target/recipe",
    "target/recipe@target.pretraining.recipe",
    "evaluator",
    "target/recipe@evaluator.recipe",
    "target/recipe@evaluator.pretraining.recipe",
    "defense",
    "attack",
    "attack/prior",
    "attack=gmi attack/expectation",
    "attack=lomma_gmi attack/surrogates",
    "attack=ppdg_ppa attack/tuning",
    "metrics",
    "open_set",
    "traits",
    "diagnostics",
    "numerics",
    "tracking",
    "hydra/launcher",
)


def choices() -> dict[str, list[str]]:
    """The options of each of ``GROUPS``, the user's own among them. Call inside ``packaged_configs``."""
    loader = GlobalHydra.instance().config_loader()
    folders = {group: group.split()[-1].partition("@")[0] for group in GROUPS}
    return {group: loader.get_group_options(folder) for group, folder in folders.items()}


def help_text(overrides: Sequence[str] = ()) -> str:
    """The choices, and the config that some overrides make. Raises what Hydra raises."""
    with packaged_configs():
        lines = [f"  {group}: {', '.join(options)}" for group, options in choices().items()]
        config = compose("config", overrides=list(overrides))
    return "\n".join(
        [
            "Choices (GROUP=OPTION; two defenses at once: defense=[a,b]):",
            "",
            *lines,
            "",
            "Any value below can be given as KEY=VALUE, swept with -m as KEY=A,B:",
            "",
            OmegaConf.to_yaml(config),
        ]
    )
