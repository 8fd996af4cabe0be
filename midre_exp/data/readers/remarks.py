"""What a user should know of a folder that can be used all the same."""

from __future__ import annotations

import re
from collections import Counter

from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.identities import Identities

#: Endings of what people keep beside pictures; that it is not read surprises nobody.
_BESIDE = re.compile(
    r"txt|[ct]sv|json|md|rst|html|xml|ya?ml|ini|log|pdf|py|sh|mat|np[yz]|pkl|db|zip|tar|gz|sha256|md5"
)


def remarks(every: Identities, kept: Identities, min_images: int | None) -> list[str]:
    """Clauses about a tree; ``kept``: the identities with ``min_images``."""
    tree, said = every.tree, []
    if every.root != tree.top.path:
        said.append(
            f"it holds one folder of identities, {every.root.relative_to(tree.top.path)}/, which is used"
        )
    few = len(every.files) + len(every.empty) - len(kept.files)
    if min_images is not None and few:
        said.append(
            f"{few:,} of {len(every.files) + len(every.empty):,} identities have fewer than "
            f"data.min_images={min_images} images and are left out"
        )
    if every.left_over:
        names = abbreviate([image.name for image in every.left_over])
        said.append(f"{len(every.left_over):,} image(s) belong to no identity: {names}")
    said += unread(tree.foreign)
    if tree.litter:
        said.append(f"thumbnails and the like are passed over: {abbreviate(sorted(tree.litter))}")
    if tree.circles:
        said.append(f"links that lead in a circle are not followed: {abbreviate(tree.circles)}")
    if alike := every.alike():
        pairs = abbreviate([" and ".join(group) for group in alike])
        said.append(f"names that differ in upper and lower case alone are different identities: {pairs}")
    return said


def unread(foreign: Counter[str]) -> list[str]:
    """A clause about files whose endings are not read, none where that surprises nobody."""
    strange = Counter({ending: n for ending, n in foreign.items() if not _BESIDE.fullmatch(ending)})
    return (
        [f"{strange.total():,} file(s) have endings that are not read: {endings(strange)}"] if strange else []
    )


def endings(foreign: Counter[str]) -> str:
    """Endings with how many files have each, the most frequent first."""
    ranked = sorted(foreign.items(), key=lambda item: (-item[1], item[0]))
    return abbreviate([f"{n:,} {f'.{ending}' if ending else 'without ending'}" for ending, n in ranked])
