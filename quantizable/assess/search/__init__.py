"""Searching for inputs on which a pair of models disagrees: one interface, one budget, one constraint."""

from quantizable.assess.search.constraint import Constraint, LInf, Psnr
from quantizable.assess.search.diffchaser import DiffChaser
from quantizable.assess.search.diverget import DiverGet
from quantizable.assess.search.fitness import Coverage, Divergence, Surprise
from quantizable.assess.search.gradient import Gradient
from quantizable.assess.search.hunt import Found, Hunt, Searcher, search_inputs
from quantizable.assess.search.uniform import RandomNoise, RandomRelations

__all__ = [
    "Constraint",
    "Coverage",
    "DiffChaser",
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
