"""Attack accuracy phase by phase, of attacks that have their images judged on the way or keep them
(IF-GMI).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.accuracy import attack_accuracy, topk_hits
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.judge import Judge

_BATCH = 256
_LARGEST = (1, 5)  # the label counts among as many largest logits


class PhaseJudge:
    """What an attack shows the images of a phase while they are there: the evaluator, and the evaluator
    rebuilt (``Judge.rebuilt``) where that is another. It answers to the record alone, never to the attack.
    """

    def __init__(self, judge: Judge):
        rebuilt = judge.rebuilt()
        self.judges = (judge,) if rebuilt is None else (judge, rebuilt)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether ``images`` float [n, 3, h, w], as they are, are recognised as ``labels`` [n]: bool [n,
        judges, 2] on the CPU, top-1 and top-5; with fewer than 5 classes everything is among the 5.
        """
        answers = [judge.look(images)[0] for judge in self.judges]
        own = labels.cpu()
        hits = [
            torch.stack([topk_hits(logits, own, min(k, logits.shape[1])) for k in _LARGEST], 1)
            for logits in answers
        ]
        return torch.stack(hits, 1).bool()


class PhaseAccuracy:
    """``att_acc1_stage0``, ``att_acc5_stage0``, ..: attack accuracy after each phase of the attack, in
    percent; ``best_stage_official``, the earliest phase with the highest top-1 accuracy, and its accuracies,
    ``att_acc1_best_stage_official`` and ``att_acc5_best_stage_official``. Where the phases were also judged
    by the rebuilt evaluator, the same of it, ending ``_best_stage_rebuilt_official``.

    The best phase's is what IF-GMI's code prints as its result. It is optimistic: the evaluator chooses the
    phase that it then evaluates, a choice that no attacker could make, and the largest of several noisy
    numbers lies above the accuracy of any phase fixed beforehand.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The accuracies, top-5 with at least 5 classes; nothing for an attack without phases. Raises
        Unavailable without an evaluator.
        """
        if evaluation.phase_hits is not None:
            shares = 100 * evaluation.phase_hits.double().mean(0)  # [phases, judges, 2]
            classes = evaluation.logits.shape[1]
            known = [place for place, k in enumerate(_LARGEST) if k <= classes]
            by_judge = [
                {_LARGEST[place]: shares[:, judge, place].tolist() for place in known}
                for judge in range(shares.shape[1])
            ]
        elif evaluation.phases is not None:
            by_judge = [self._of_kept_images(evaluation, evaluation.phases)]
        else:
            return {}
        numbers = {
            f"att_acc{k}_stage{phase}": share
            for k, each in by_judge[0].items()
            for phase, share in enumerate(each)
        }
        for accuracies, judge in zip(by_judge, ("", "_rebuilt"), strict=False):
            best = accuracies[1].index(max(accuracies[1]))
            numbers[f"best_stage{judge}_official"] = float(best)
            numbers |= {
                f"att_acc{k}_best_stage{judge}_official": each[best] for k, each in accuracies.items()
            }
        return numbers

    def _of_kept_images(self, evaluation: Evaluation, phases: Tensor) -> dict[int, list[float]]:
        """The accuracy after each phase, by how many largest logits count."""
        if evaluation.judge is None:
            raise Unavailable("the images of the phases need an evaluator")
        logits = [
            self._logits(evaluation, phases[:, phase], evaluation.judge) for phase in range(phases.shape[1])
        ]
        return {
            k: [attack_accuracy(of_phase, evaluation.labels, k) for of_phase in logits]
            for k in _LARGEST
            if k <= logits[0].shape[1]
        }

    @staticmethod
    def _logits(evaluation: Evaluation, images: Tensor, judge: Judge) -> Tensor:
        """The evaluator's logits [n, k] of ``images`` uint8 [n, 3, h, w]; those it has classified already are
        not shown again.
        """
        logits = evaluation.logits.clone()
        rows = torch.arange(len(images))
        if images.shape == evaluation.images.shape and images.dtype == evaluation.images.dtype:
            known = [
                (images[part] == evaluation.images[part]).flatten(1).all(1) for part in rows.split(_BATCH)
            ]
            rows = (~torch.cat(known)).nonzero().squeeze(1)
        for part in rows.split(_BATCH):
            if len(part):
                logits[part] = judge.look(images[part])[0]
        return logits


@dataclass(kw_only=True, eq=False)
class NamedPhases(PhaseAccuracy):
    """``att_acc1_<name>``, ``att_acc5_<name>``: attack accuracy of the several pictures that an attack keeps
    of each item, in percent, by their names; none of them is preferred.
    """

    names: Sequence[str]  # of the pictures, in their order

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The accuracies, top-5 with at least 5 classes; nothing for an attack that keeps one picture. Raises
        Unavailable without an evaluator, ConfigError for another number of names.
        """
        if evaluation.phases is None:
            return {}
        if evaluation.phases.shape[1] != len(self.names):
            raise ConfigError(
                f"NamedPhases names={list(self.names)} are {len(self.names)}, and the attack keeps "
                f"{evaluation.phases.shape[1]} pictures of each item; name each of them"
            )
        found = self._of_kept_images(evaluation, evaluation.phases)
        return {
            f"att_acc{k}_{name}": share
            for k, shares in found.items()
            for name, share in zip(self.names, shares, strict=True)
        }
