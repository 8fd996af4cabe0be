"""The traits of synthetic people that somebody could read off a face: which are numbers, on whom each shows,
and which are kinds.

What only decides whether something is there (how much a mole shows from 0.72 on) is a kind here, whether it
is; what follows of it (where the mole is) is a number that shows on those who have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from midre_exp.data.base import KnownTraits
from midre_exp.data.synthetic.traits import HAIRSTYLES

#: Traits that decide about kinds alone, and colours that others change.
_DECIDING = (
    *("glasses_kind", "beard_kind", "hair_kind", "hair_tone", "hair_dye", "hair_hue", "mole", "mole2"),
    *("freckles", "earring", "birthmark", "scar"),
)
#: What a number needs to show: the name of one that is above 0 where it does.
_SHOWS_WITH = {
    "beard_length": "bearded",
    **dict.fromkeys(("glasses_round", "glasses_size", "glasses_tone"), "glassed"),
    **dict.fromkeys(("mole_x", "mole_y"), "moled"),
    **dict.fromkeys(("mole2_x", "mole2_y"), "moled2"),
    **dict.fromkeys(("birthmark_x", "birthmark_y", "birthmark_size"), "birthmarked"),
    **dict.fromkeys(("scar_x", "scar_y", "scar_slant"), "scarred"),
}
#: Whether somebody has it: the trait that decides, and the number that is above 0 then.
_WHETHER = {
    "glasses": ("glasses_kind", "glassed"),
    "mole": ("mole", "moled"),
    "second_mole": ("mole2", "moled2"),
    "freckles": ("freckles", "freckled"),
    "earrings": ("earring", "earringed"),
    "birthmark": ("birthmark", "birthmarked"),
    "scar": ("scar", "scarred"),
}
_BEARDS = ("none", "stubble", "moustache", "goatee", "full")
_BEARD_FROM = (0.34, 0.50, 0.62, 0.78)
_HAIR = ("balding", "short", "curls", "bun", "bob", "long")
_HAIR_FROM = (1, 5, 6, 7, 9)  # of the table of hairstyles
#: How much of the place in that table is a person's sex, by version.
_SEX_IN_HAIR = {1: 0.42, 2: 0.24}


def known_traits(shown: Mapping[str, Tensor], personal: tuple[str, ...], version: int) -> KnownTraits:
    """Of photographs with the traits ``shown`` [n] or, of colours, [n, 3], those that are the person's."""
    mine = {*personal}
    numbers = {name: shown[name] for name in personal if name not in _DECIDING}
    if "hair_tone" in mine:  # with what dye and age made of it
        numbers["hair_lightness"] = shown["hair"].mean(1)
    everybody = torch.ones(len(shown["age"]), dtype=torch.bool)
    shows = {name: shown[_SHOWS_WITH[name]] > 0 if name in _SHOWS_WITH else everybody for name in numbers}
    if version == 1:  # lips have a colour of their own where they are made up
        shows["lip_tone"] = shown["femininity"] > 0.55
    kinds: dict[str, tuple[tuple[str, ...], Tensor]] = {}

    def kind(name: str, needs: str, names: tuple[str, ...], classes: Callable[[], Tensor]) -> None:
        if needs in mine:
            kinds[name] = (names, classes().long())

    woman = (shown["femininity"] > 0.5).float()
    kind("sex", "femininity", ("male", "female"), lambda: woman)
    kind("skin", "skin_tone", ("light", "medium", "dark"), lambda: _third(shown["skin_tone"]))
    kind("age_group", "age", ("young", "middle", "old"), lambda: _third(shown["age"]))
    share = _SEX_IN_HAIR[version]
    kind(
        "hair",
        "hair_kind",
        _HAIR,
        lambda: _from(
            ((1 - share) * shown["hair_kind"] + share * woman) * len(HAIRSTYLES) // 1, _HAIR_FROM, True
        ),
    )
    kind("beard", "beard_kind", _BEARDS, lambda: _from(shown["beard_kind"] * (1 - woman), _BEARD_FROM, False))
    for name, (needs, number) in _WHETHER.items():
        if number in shown:
            kind(name, needs, ("without", "with"), partial(torch.gt, shown[number], 0))
    return KnownTraits(numbers, shows, kinds)


def _third(trait: Tensor) -> Tensor:
    """Of a trait that is uniform from 0 to 1."""
    return (trait * 3).clamp(max=2)


def _from(values: Tensor, steps: tuple[float, ...], inclusive: bool) -> Tensor:
    """How many of ``steps`` lie below a value, or at it."""
    return torch.bucketize(values, torch.tensor(steps, dtype=values.dtype), right=inclusive)
