"""Steps of DP-SGD by opacus: the gradient of each image by its expanded weights, clipped and summed by its
optimiser. Imported only where such a defense trains, because opacus is an extra (``midre-exp[dp]``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from opacus.accountants import RDPAccountant
from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.seeding import moved
from midre_exp.targets.base import Classifier, Output

_AUXILIARY = "auxiliary"  # beside the taps, of which no network has one of this name


class PerImageCall:
    """A classifier in training, whose backward pass gives every parameter the gradient of each image of the
    one batch that a step may have.

    Where opacus' expanded weights know all layers, by these; else by a copy of the parameters for each image
    (``torch.func.vmap``), which gives the same numbers but for rounding and takes twice as long.
    """

    def __init__(self, model: Classifier):
        self.model = model
        self.asked = False  #: since the last step
        self._expands: bool | None = None
        self._expanded = GradSampleModuleExpandedWeights(model, loss_reduction="mean")
        self._copies: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """What the model answers. Raises ConfigError for a second batch and for a network whose layers cannot
        be taken image by image.
        """
        output: Output
        if not torch.is_grad_enabled():
            output = self.model(images, taps)
            return output
        if self.asked:
            raise ConfigError(
                "defense.dpsgd takes one pass through the network a step, and another defense asks for a "
                "second; leave that one out"
            )
        if self._expands is None:
            self._expands = self._can_expand(images[:2])
        self.asked = True
        answer = self._expanded if self._expands else self._copied
        output = answer(images, taps)
        return output

    def _can_expand(self, images: Tensor) -> bool:
        """Whether expanded weights know all layers, tried on few images."""
        try:
            with torch.random.fork_rng(devices=[]):
                self._expanded(images).logits.sum().backward()
        except (RuntimeError, AttributeError):  # torch has no other name for it; a shift that is not trained
            return False
        finally:
            self.forget()
        return True

    def _copied(self, images: Tensor, taps: Sequence[str]) -> Output:
        trained = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        self._copies = {
            name: one.detach().expand(len(images), *one.shape).requires_grad_()
            for name, one in trained.items()
        }

        def answer(parameters: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            output = torch.func.functional_call(self.model, parameters, (image[None], taps))
            taken = {name: tap[0] for name, tap in output.taps.items()}
            if output.auxiliary is not None:
                taken[_AUXILIARY] = output.auxiliary[0]
            return output.logits[0], output.features[0], taken

        try:
            logits, features, taken = torch.func.vmap(answer, randomness="different")(self._copies, images)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"defense.dpsgd cannot take a {type(self.model).__name__} image by image ({reason}); choose "
                "another target"
            ) from error
        auxiliary = taken.pop(_AUXILIARY, None)
        return Output(logits, features, taken, auxiliary)

    def collect(self) -> None:
        """Give every parameter its gradients as ``grad_sample`` [n, ...], each of one image's own loss; none
        of a step without images.
        """
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if not self.asked:
                parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
            elif name in self._copies:
                gradient = self._copies[name].grad
                assert gradient is not None
                parameter.grad_sample = len(gradient) * gradient  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Be ready for another step."""
        self.asked, self._copies = False, {}
        for parameter in self.model.parameters():
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]


class PrivateSteps(DPOptimizer):
    """opacus' optimiser with noise drawn by a generator of the CPU, for batches that may be empty."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: int,
        draws: Callable[[], torch.Generator],
        call: PerImageCall,
    ):
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )
        self._draws, self._call = draws, call

    def add_noise(self) -> None:
        """Noise of standard deviation ``noise_multiplier * max_grad_norm`` on every summed gradient."""
        std = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noisy: Tensor = parameter.summed_grad  # type: ignore[attr-defined]
            if std:
                drawn = torch.normal(0.0, std, tuple(noisy.shape), generator=self._draws(), dtype=noisy.dtype)
                noisy = noisy + moved(drawn, noisy.device)
            parameter.grad = noisy.view_as(parameter)

    def pre_step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip, add up, add noise; of an empty batch, noise alone."""
        self._call.collect()
        done: float | None = super().pre_step()
        return done

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, after which the network can be asked again."""
        done: float | None = super().step(closure)
        self._call.forget()
        return done


def epsilon(*, noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The epsilon of ``steps`` steps on Poisson batches, for one image, by Renyi differential privacy."""
    accountant = RDPAccountant()  # type: ignore[no-untyped-call]
    accountant.history.append((noise_multiplier, sample_rate, steps))
    return float(accountant.get_epsilon(delta=delta))
