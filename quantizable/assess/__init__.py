"""How, where and how often the modes of a network disagree, and a search for inputs that make them.

``callables`` turns modes into callables, ``shifts`` measures agreement on clean and shifted images,
``indicators`` and ``cascade`` recognize doubtful inputs, ``repair`` fine-tunes on them, ``searchers`` looks
for them, ``report`` shows it all.
Nothing is imported here, so that the command line starts without the libraries of the extra ``assess``.

>>> from quantizable import load                                               # doctest: +SKIP
>>> from quantizable.assess.callables import Pair, mode_models                    # doctest: +SKIP
>>> from quantizable.assess.searchers import Gradient, LInf, search_inputs        # doctest: +SKIP
>>> models = mode_models(load("best.ckpt"))                                    # doctest: +SKIP
>>> pair = Pair(models["32"], models["4"])                                     # doctest: +SKIP
>>> found = search_inputs(Gradient(), pair, pixels, labels, LInf(8 / 255), 60)   # doctest: +SKIP
"""
