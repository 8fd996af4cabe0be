"""What an attack derives from: the engine's contract, under the name that plugins import."""

from midre_exp.attack import Attack, AttackResult, Reconstructions, Transforms, apply, split_evenly, to_uint8

__all__ = ["Attack", "AttackResult", "Reconstructions", "Transforms", "apply", "split_evenly", "to_uint8"]
