"""Model inversion experiments: targets, priors, victims, metrics, records. Attacks and defenses are plugins
beside it.
"""

__version__ = "0.1.0"
