"""Searching for inputs on which a pair of models disagrees: one interface, one budget, one constraint."""

from quantizable.assess.search.constraint import Constraint, LInf, Psnr
from quantizable.assess.search.diffchaser import DiffChaser
from quantizable.assess.search.diverget import DiverGet
from quantizable.assess.search.gradient import Gradient
from quantizable.assess.search.hunt import Found, Hunt, Searcher, search_inputs
from quantizable.assess.search.uniform import RandomNoise, RandomRelations

__all__ = [
    "Constraint",
    "DiffChaser",
    "DiverGet",
    "Found",
    "Gradient",
    "Hunt",
    "LInf",
    "Psnr",
    "RandomNoise",
    "RandomRelations",
    "Searcher",
    "search_inputs",
]
