"""Cards of the data sets and weight files that runs need and this project may not bring along: where they are
published, under which terms, and how a copy is recognised. No torch, and nothing is fetched here.
"""

from midre_exp.cards.datasets import (
    card_of as card_of,
)
from midre_exp.cards.datasets import (
    steps as steps,
)
from midre_exp.cards.datasets import (
    usual_images as usual_images,
)
from midre_exp.cards.read import (
    DatasetCard as DatasetCard,
)
from midre_exp.cards.read import (
    WeightsCard as WeightsCard,
)
from midre_exp.cards.read import (
    dataset_cards as dataset_cards,
)
from midre_exp.cards.read import (
    weights_cards as weights_cards,
)
