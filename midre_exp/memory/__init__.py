"""How much goes at once: what fits is measured where it can be, and halved where it did not fit."""
