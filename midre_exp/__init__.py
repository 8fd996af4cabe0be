"""Model inversion experiments: targets, priors, victims, metrics, records. Attacks and defenses are plugins
beside it.
"""

__version__ = "0.1.0"

#: Top-level names whose classes a config may instantiate by ``_target_``; users add theirs with
#: ``runtime.trusted_packages=[my_package]``.
ALLOWED_TARGETS = ("midre_exp.", "attacks.", "defenses.", "torch.optim.", "torch.nn.", "pytorch_lightning.")
