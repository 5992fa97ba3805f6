"""How, where and how often the modes of a network disagree, and a search for inputs that make them.

>>> from quantizable import assess, load                                            # doctest: +SKIP
>>> models = assess.mode_models(load("best.ckpt"))                                  # doctest: +SKIP
>>> for shifted in assess.shifts(models, images): print(shifted.agreement)          # doctest: +SKIP
>>> pair, limit = assess.Pair(models["32"], models["4"]), assess.search.LInf(8 / 255)   # doctest: +SKIP
>>> gradient = assess.search.Gradient()                                               # doctest: +SKIP
>>> found = assess.search.search(gradient, pair, seeds, labels, limit, budget=60)      # doctest: +SKIP
"""

from quantizable.assess import search
from quantizable.assess.agreement import Agreement, agreement
from quantizable.assess.corruptions import corrupt
from quantizable.assess.guard import Guard
from quantizable.assess.images import Images, images_of
from quantizable.assess.indicators import indicator_quality
from quantizable.assess.models import Pair, mode_models, probabilities
from quantizable.assess.repair import repair
from quantizable.assess.shifts import shifts

__all__ = [
    "Agreement",
    "Guard",
    "Images",
    "Pair",
    "agreement",
    "corrupt",
    "images_of",
    "indicator_quality",
    "mode_models",
    "probabilities",
    "repair",
    "search",
    "shifts",
]
