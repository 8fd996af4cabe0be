"""The networks of all priors by name, for notebooks, checks and whoever needs one without its training."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from midre_exp.errors import ConfigError

#: Name -> "module:class". A module is imported when its network is asked for.
NETWORKS = {
    "gmi_generator": "midre_exp.priors.gmi:Generator",
    "gmi_discriminator": "midre_exp.priors.gmi:Critic",
    "kedmi_discriminator": "midre_exp.priors.kedmi:MinibatchDiscriminator",
    "plgmi_generator": "midre_exp.priors.plgmi_networks:Generator",
    "plgmi_discriminator": "midre_exp.priors.plgmi_networks:Discriminator",
    "stylegan2_generator": "midre_exp.priors.stylegan.generator:Generator",
    "stylegan2_discriminator": "midre_exp.priors.stylegan.discriminator:Discriminator",
}


def build_network(name: str, **options: Any) -> nn.Module:
    """The network ``name``, in its official size unless ``options`` say otherwise.

    Raises ConfigError for an unknown name or option.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network {name} is unknown; use one of {', '.join(sorted(NETWORKS))}")
    module, _, kind = NETWORKS[name].partition(":")
    try:
        network: nn.Module = getattr(import_module(module), kind)(**options)
    except TypeError as error:
        raise ConfigError(f"network {name} cannot be built with {options}: {error}") from error
    return network
