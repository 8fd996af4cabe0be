"""Building a prior by the name of its config, and a network of one by its name, for notebooks and
benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import config_files
from midre_exp.plan.keys import uses_target
from midre_exp.priors.base import Prior, initial_prior

#: Name -> "module:class". A module is imported when its network is asked for.
NETWORKS = {
    "gmi_generator": "gan.gmi_networks:GMIGenerator",
    "gmi_discriminator": "gan.gmi_networks:GMICritic",
    "kedmi_discriminator": "gan.kedmi_networks:KedMIDiscriminator",
    "plgmi_generator": "gan.plgmi_networks:PLGMIGenerator",
    "plgmi_discriminator": "gan.plgmi_networks:PLGMIDiscriminator",
    "stylegan2_generator": "stylegan.generator:StyleGAN2Generator",
    "stylegan2_discriminator": "stylegan.discriminator:StyleGAN2Discriminator",
}


def build_prior(name: str, *, scale: str = "paper", num_classes: int | None = None, **options: Any) -> Prior:
    """The untrained prior of ``conf/attack/prior/<name>.yaml``, initialised from its ``seed``; ``fit`` trains
    it, or loads the published weights that ``pretrained`` names.

    ``scale`` chooses between the published sizes (``paper``) and reduced ones (``synth``, ``mini``);
    ``options`` override single values. ``num_classes`` of the target is for a prior that is trained against
    it. Raises ConfigError for an unknown name or option, listing the known ones, for values the prior refuses
    and when ``num_classes`` is missing.
    """
    known = config_files("attack/prior")
    if name not in known:
        raise ConfigError(f"prior {name} is unknown; known priors: {', '.join(known)}")
    node = choice("attack/prior", name, scale=scale)
    if unknown := sorted(set(options) - set(node)):
        accepted = ", ".join(sorted(key for key in node if key not in ("_target_", "name")))
        raise ConfigError(f"prior {name} has no option {', '.join(unknown)}; it has: {accepted}")
    if num_classes is None and uses_target(node):
        raise ConfigError(f"prior {name} is trained against a target; give num_classes, how many it has")
    return initial_prior({**node, **options}, num_classes=num_classes)


def build_network(name: str, **options: Any) -> nn.Module:
    """The network ``name``, in its official size unless ``options`` say otherwise.

    Raises ConfigError for an unknown name or option.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network {name} is unknown; use one of {', '.join(sorted(NETWORKS))}")
    module, _, kind = NETWORKS[name].partition(":")
    make: Callable[..., nn.Module] = getattr(import_module(f"midre_exp.priors.{module}"), kind)
    try:
        return make(**options)
    except TypeError as error:
        raise ConfigError(f"network {name} cannot be built with {options}: {error}") from error
