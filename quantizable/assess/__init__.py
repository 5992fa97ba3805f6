"""How, where and how often the modes of a network disagree, and a search for inputs that make them.

>>> from quantizable import assess, load                                  # doctest: +SKIP
>>> models = assess.mode_models(load("best.ckpt"))                        # doctest: +SKIP
>>> for shifted in assess.shifts(models, images):                         # doctest: +SKIP
...     print(shifted.agreement)
>>> pair, limit = assess.Pair(models["32"], models["4"]), assess.LInf(8 / 255)               # doctest: +SKIP
>>> found = assess.search_inputs(assess.Gradient(), pair, seeds, labels, limit, budget=60)   # doctest: +SKIP
"""

from importlib import import_module

_HOMES = {
    "agreement": ("Agreement", "agreement"),
    "corruptions": ("corrupt",),
    "guard": ("Guard",),
    "images": ("Images", "images_of"),
    "indicators": ("indicator_quality",),
    "models": ("Pair", "mode_models", "probabilities"),
    "relations": ("relations_for",),
    "repair": ("repair",),
    "search": ("DiffChaser", "DiverGet", "Gradient", "LInf", "Psnr", "RandomNoise", "RandomRelations"),
    "search.hunt": ("search_inputs",),
    "shifts": ("shifts",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    # found when it is asked for: the command line must start without the libraries of the extra ``assess``
    if name not in _HOME:
        raise AttributeError(f"module 'quantizable.assess' has no attribute {name!r}")
    return getattr(import_module(f"quantizable.assess.{_HOME[name]}"), name)
