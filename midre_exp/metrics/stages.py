"""Attack accuracy stage by stage, of attacks that keep their pictures on the way (IF-GMI)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midre_exp.metrics.accuracy import topk_hits
from midre_exp.metrics.base import Evaluation, Unavailable

_BATCH = 256


class StageAccuracy:
    """``att_acc1_stage0``, ``att_acc5_stage0``, ..: attack accuracy of each stage in percent; ``best_stage``,
    the earliest with the highest top-1 accuracy, and that accuracy, ``att_acc1_best_stage``.

    The last is what IF-GMI's code calls its best result. It is optimistic: the evaluator chooses the stage it
    is then the judge of, a choice that no attacker could make, and the largest of several noisy numbers lies
    above the accuracy of any stage fixed beforehand.
    """

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The accuracies, top-5 with at least 5 classes; nothing for an attack without stages. Raises
        Unavailable without an evaluator.
        """
        if seen.stages is None:
            return {}
        if seen.judge is None:
            raise Unavailable("the pictures of the stages need an evaluator to judge them")
        judged = [
            self._logits(seen, seen.stages[:, stage], seen.judge) for stage in range(seen.stages.shape[1])
        ]
        numbers = {
            f"att_acc{k}_stage{stage}": 100 * float(topk_hits(logits, seen.labels, k).mean())
            for k in (1, 5)
            for stage, logits in enumerate(judged)
            if k <= logits.shape[1]
        }
        top1 = [numbers[f"att_acc1_stage{stage}"] for stage in range(len(judged))]
        best = top1.index(max(top1))
        return {**numbers, "best_stage": float(best), "att_acc1_best_stage": top1[best]}

    @staticmethod
    def _logits(seen: Evaluation, pictures: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
        """The evaluator's logits [n, k] of ``pictures`` uint8 [n, 3, h, w]; those it has judged already are
        not shown again.
        """
        logits = seen.logits.clone()
        if pictures.shape == seen.images.shape:
            parts = torch.arange(len(pictures)).split(_BATCH)
            known = [(pictures[part] == seen.images[part]).flatten(1).all(1) for part in parts]
            rows = (~torch.cat(known)).nonzero().squeeze(1)
        else:
            rows = torch.arange(len(pictures))
        for part in rows.split(_BATCH):
            if len(part):
                logits[part] = judge(pictures[part])
        return logits
