"""What a user might write outside the project: a defense with every hook, an attack, a prior."""

from __future__ import annotations

import torch

from defenses import Batch, Defense
from midre_exp.attack import Attack
from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.priors.gmi import GMIPrior
from midre_exp.threat import Threat


class NosyDefense(Defense):
    """Uses each hook once and remembers the order in which it was called."""

    exclusive = frozenset({"base_loss", "sampler"})
    calls: list[str] = []

    def __init__(self, *, strength: float):
        self.strength = strength

    @property
    def label(self):
        return f"Nosy {self.strength:g}"

    def on_dataset(self, train, *, seed):
        self.calls.append("on_dataset")
        return train

    def sampler(self, labels, *, batch_size, seed, drop_last):
        self.calls.append("sampler")
        return ClassByClass(labels)

    def on_batch(self, batch, model, progress, generator):
        assert torch.is_grad_enabled() and model.training
        self.calls.append("on_batch")
        return Batch(1 - batch.images, batch.labels, batch.index)

    def modify_backbone(self, model):
        self.calls.append("reshape")

    def replace_head(self, model):
        self.calls.append("replace_head")

    def trainable(self, model):
        return [name for name, _ in model.named_parameters() if not name.startswith("layer1")]

    def taps(self, model):
        return ("layer2",)

    def recipe(self, recipe):
        return {**recipe, "epochs": 3, "scheduler": None}

    def base_loss(self, output, batch, progress):
        self.calls.append("base_loss")
        return torch.nn.functional.cross_entropy(output.logits, batch.targets, label_smoothing=0.1)

    def extra_losses(self, output, batch, progress, *, classify, generator):
        self.calls.append(f"extra_losses {progress.epoch}/{progress.epochs}")
        return {"tap": self.strength * output.taps["layer2"].square().mean()}

    def on_epoch(self, model, progress):
        self.calls.append(f"on_epoch {progress.epoch}")

    def on_inference(self, model):
        self.calls.append("on_inference")


class ClassByClass:
    """One class per batch."""

    def __init__(self, labels):
        self.labels = labels

    def batches(self, epoch):
        return [(self.labels == label).nonzero().squeeze(1) for label in self.labels.unique()]


class RandomGuess(Attack):
    """Asks a label victim and answers with its start points."""

    threat = Threat.LABELS

    def __init__(self, *, identities, restarts, image_to_target=(), **options_of_other_attacks):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)

    def invert(self, victim, prior, labels, rng, loop):
        latents = rng.normal("guess", prior.latent_dim)
        for _ in loop(2, {}):
            victim.labels(self.render(prior, latents, labels))
        return latents


class TargetedPrior(GMIPrior):
    """A prior whose training may look at the target."""

    uses_target = True
    seen: list[object] = []

    def __init__(self, *, num_classes=None, **options):
        super().__init__(**options)

    def fit(self, public, victim, *, seed, work, runtime):
        self.seen.append(victim)
        return super().fit(public, victim, seed=seed, work=work, runtime=runtime)


class ReadsItsNumbers(Prior):
    """A prior whose constructor looks at a tensor, which has no numbers without memory."""

    uses_target = False
    made: list[str] = []

    def __init__(self, *, steps):
        super().__init__()
        weight = torch.ones(2)
        self.made.append(weight.device.type)
        if weight.sum().item() * steps < 2:
            raise ConfigError(f"steps={steps} must be at least 1")


class BrokenAttack(RandomGuess):
    """Fails like a bug would."""

    def invert(self, victim, prior, labels, rng, loop):
        raise RuntimeError("the attack fell over")
