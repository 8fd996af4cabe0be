"""The trade-off Δ of a defense."""

from __future__ import annotations


def trade_off(acc: float, att_acc: float, base_acc: float, base_att_acc: float) -> float | str:
    """Δ of the MIDRE paper (Sec. 4.1): attack accuracy taken away per point of accuracy lost, against the
    undefended model (``base``). ``OP`` where the defended model is at least as accurate: nothing was paid.
    """
    lost = base_acc - acc
    return (base_att_acc - att_acc) / lost if lost > 0 else "OP"
