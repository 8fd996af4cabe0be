from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from midre_exp.data.readers.layout import lines_of
from midre_exp.data.readers.splits import (
    drawn,
    frequent_by_number,
    hold_out_per_class,
    most_frequent,
    ninety_ten,
)
from midre_exp.errors import DataError
from tests.golden.fill import golden

#: The path of a real identity_CelebA.txt, for the test that needs one.
REAL = os.environ.get("MIDRE_CELEBA_IDENTITIES")
#: The tie example: counts {7: 3, 2: 3, 9: 2, 4: 3}, first seen in the order 7, 9, 2, 4.
PEOPLE = [7, 9, 2, 4, 7, 4, 2, 9, 2, 7, 4]


def sha(rows: Iterable[object]) -> str:
    return hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()


def test_ties_are_broken_as_each_family_breaks_them() -> None:
    assert most_frequent(PEOPLE, 2) == [7, 2]
    assert frequent_by_number(PEOPLE, 2, 3) == [2, 4]
    assert most_frequent(PEOPLE, 4) == [7, 2, 4, 9]


def test_too_few_identities_are_told_with_both_figures() -> None:
    with pytest.raises(DataError, match="names 4 identities, 5 are wanted"):
        most_frequent(PEOPLE, 5)
    with pytest.raises(DataError, match="3 identities have at least 3 images, 4 are wanted"):
        frequent_by_number(PEOPLE, 4, 3)


@pytest.mark.parametrize("count", ["100", "20580", "30038", "37878"])
def test_ninety_ten_is_numpys_permutation(count: str) -> None:
    expected = golden("celeba_splits")["numpy_seed42_shuffle_of_range_n"][count]
    train, test = ninety_ten(int(count))
    assert (len(train), len(test)) == (expected["train"], expected["test"])
    assert train[:10] == expected["first10"]
    assert test[-3:] == expected["last3"]
    assert sha(train + test) == expected["sha256"]


@pytest.mark.parametrize("count", ["1000", "20580", "37878"])
def test_ninety_ten_is_ppas_split(count: str) -> None:
    expected = golden("metrics_highres")["split_90_10_seed42"]["cases"][count]
    train, test = ninety_ten(int(count))
    assert (len(train), len(test)) == (expected["n_train"], expected["n_test"])
    assert train[:8] == expected["train_first"]
    assert test[:8] == expected["test_first"]
    assert test[-1] == expected["test_last"]


@pytest.mark.parametrize(
    ("images", "train"), [(30, 27), (31, 27), (34, 30), (35, 31), (1, 1), (2, 1), (10, 9)]
)
def test_a_tenth_of_each_class_is_held_out_rounded_up(images: int, train: int) -> None:
    names = [f"{row}.jpg" for row in range(3 * images)]
    labels = [row % 3 for row in range(3 * images)]
    kept, held = hold_out_per_class(names, labels, share=0.1, seed=0)
    assert Counter(labels[row] for row in kept) == dict.fromkeys(range(3), train)
    assert sorted(kept + held) == list(range(3 * images))
    assert kept == sorted(kept)


def test_who_is_held_out_depends_on_names_and_seed_not_on_order_or_other_classes() -> None:
    names = [f"{row:03d}" for row in range(60)]
    labels = [row // 20 for row in range(60)]
    _, held = hold_out_per_class(names, labels, share=0.2, seed=0)
    _, backwards = hold_out_per_class(names[::-1], labels[::-1], share=0.2, seed=0)
    assert {names[row] for row in held} == {names[::-1][row] for row in backwards}
    _, alone = hold_out_per_class(names[:20], labels[:20], share=0.2, seed=0)
    assert alone == [row for row in held if row < 20]
    assert held != hold_out_per_class(names, labels, share=0.2, seed=1)[1]


def test_drawn_rows_depend_on_names_and_seed_not_on_order() -> None:
    names = [f"{row:03d}" for row in range(50)]
    rows = drawn(names, 10, seed=0)
    assert rows == sorted(set(rows))
    assert len(rows) == 10
    assert {names[row] for row in rows} == {names[::-1][row] for row in drawn(names[::-1], 10, seed=0)}
    assert rows != drawn(names, 10, seed=1)
    assert set(rows) < set(drawn(names, 20, seed=0))
    assert drawn(names, 99, seed=0) == list(range(50))


@pytest.mark.skipif(REAL is None, reason="set MIDRE_CELEBA_IDENTITIES to the official identity_CelebA.txt")
def test_the_real_identity_file_gives_the_published_selections() -> None:
    rows = [(words[0], int(words[1])) for _, words in lines_of(Path(str(REAL)))]
    identities = [identity for _, identity in rows]
    expected = golden("celeba_splits")
    assert len(rows) == expected["celeba"]["images"]

    high = expected["high_resolution_ppa"]
    chosen = most_frequent(identities, 1000)
    assert (chosen[:5], chosen[-3:]) == (high["first5_identities"], high["last3_identities"])
    label = {identity: position for position, identity in enumerate(chosen)}
    private = [f"{name} {label[identity]}" for name, identity in rows if identity in label]
    train, test = ninety_ten(len(private))
    assert [private[row] for row in train[:3]] == high["train_first3"]
    assert [private[row] for row in test[:3]] == high["test_first3"]
    assert sha(private[row] for row in train) == high["train_rows_sha256"]
    assert sha(private[row] for row in test) == high["test_rows_sha256"]

    low = expected["low_resolution_gmi_family"]
    numbers = frequent_by_number(identities, 1000, 30)
    assert (numbers[:5], numbers[-3:]) == (low["first5_identities"], low["last3_identities"])
    assert len(set(numbers) & set(chosen)) == expected["identities_shared_by_both_selections"]
    label = {identity: position for position, identity in enumerate(numbers)}
    stems = [name for name, identity in rows if identity in label]
    labels = [label[identity] for _, identity in rows if identity in label]
    kept, held = hold_out_per_class(stems, labels, share=0.1, seed=0)
    assert (len(kept), len(held)) == (low["train"], low["test"])
