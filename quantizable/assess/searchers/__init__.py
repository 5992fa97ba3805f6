"""Searching for inputs on which a pair of models disagrees: one interface, one budget, one constraint."""

from quantizable.assess.searchers.constraint import Constraint, LInf, Psnr
from quantizable.assess.searchers.diffchaser import DiffChaser
from quantizable.assess.searchers.diva import Diva
from quantizable.assess.searchers.diverget import DiverGet
from quantizable.assess.searchers.fitness import Coverage, Divergence, Surprise
from quantizable.assess.searchers.gradient import Gradient
from quantizable.assess.searchers.hunt import Found, Hunt, Searcher, search_inputs
from quantizable.assess.searchers.random_noise import RandomNoise, RandomRelations

__all__ = [
    "Constraint",
    "Coverage",
    "DiffChaser",
    "Diva",
    "DiverGet",
    "Divergence",
    "Found",
    "Gradient",
    "Hunt",
    "LInf",
    "Psnr",
    "RandomNoise",
    "RandomRelations",
    "Searcher",
    "Surprise",
    "search_inputs",
]
