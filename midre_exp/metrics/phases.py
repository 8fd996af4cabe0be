"""Attack accuracy phase by phase, of attacks that keep their images on the way (IF-GMI)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midre_exp.metrics.accuracy import attack_accuracy
from midre_exp.metrics.base import Evaluation, Unavailable

_BATCH = 256


class PhaseAccuracy:
    """``att_acc1_stage0``, ``att_acc5_stage0``, ..: attack accuracy after each phase of the attack, in
    percent; ``best_stage``, the earliest phase with the highest top-1 accuracy, and that accuracy,
    ``att_acc1_best_stage``.

    The last is what IF-GMI's code calls its best result. It is optimistic: the evaluator chooses the phase
    that it then evaluates, a choice that no attacker could make, and the largest of several noisy numbers
    lies above the accuracy of any phase fixed beforehand.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The accuracies, top-5 with at least 5 classes; nothing for an attack without phases. Raises
        Unavailable without an evaluator.
        """
        phases, classify = evaluation.phases, evaluation.classify
        if phases is None:
            return {}
        if classify is None:
            raise Unavailable("the images of the phases need an evaluator")
        logits = [self._logits(evaluation, phases[:, phase], classify) for phase in range(phases.shape[1])]
        numbers = {
            f"att_acc{k}_stage{phase}": attack_accuracy(of_phase, evaluation.labels, k)
            for k in (1, 5)
            for phase, of_phase in enumerate(logits)
            if k <= of_phase.shape[1]
        }
        top1 = [numbers[f"att_acc1_stage{phase}"] for phase in range(len(logits))]
        best = top1.index(max(top1))
        return {**numbers, "best_stage": float(best), "att_acc1_best_stage": top1[best]}

    @staticmethod
    def _logits(evaluation: Evaluation, images: Tensor, classify: Callable[[Tensor], Tensor]) -> Tensor:
        """The evaluator's logits [n, k] of ``images`` uint8 [n, 3, h, w]; those it has classified already are
        not shown again.
        """
        logits = evaluation.logits.clone()
        rows = torch.arange(len(images))
        if images.shape == evaluation.images.shape:
            known = [
                (images[part] == evaluation.images[part]).flatten(1).all(1) for part in rows.split(_BATCH)
            ]
            rows = (~torch.cat(known)).nonzero().squeeze(1)
        for part in rows.split(_BATCH):
            if len(part):
                logits[part] = classify(images[part])
        return logits
