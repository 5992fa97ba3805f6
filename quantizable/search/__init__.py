"""Bits per layer, and how robust they leave the network: certification, sensitivity, search."""

from quantizable.certify.certification import (
    Certification,
    Certified,
    average_certified_radius,
    certified_accuracy,
)
from quantizable.certify.incremental import Incremental
from quantizable.certify.smoothing import ABSTAIN, CertifiedRadius, Smoothing
from quantizable.interface.choices import COSTS, OBJECTIVES
from quantizable.search.budget import make_budget, parse_budget
from quantizable.search.costs import (
    Cost,
    activation_bits_cost,
    bops_cost,
    bytes_cost,
    latency_cost,
    weight_bits_cost,
)
from quantizable.search.limits import Budget, Limit
from quantizable.search.methods import METHODS
from quantizable.search.problem import Outcome, Problem, Trial, solve
from quantizable.search.scoring import Scorer
from quantizable.search.sensitivity import sensitivity
from quantizable.search.space import Space

__all__ = [
    "ABSTAIN",
    "COSTS",
    "METHODS",
    "OBJECTIVES",
    "Budget",
    "Certification",
    "Certified",
    "CertifiedRadius",
    "Cost",
    "Incremental",
    "Limit",
    "Outcome",
    "Problem",
    "Scorer",
    "Smoothing",
    "Space",
    "Trial",
    "activation_bits_cost",
    "average_certified_radius",
    "bops_cost",
    "bytes_cost",
    "certified_accuracy",
    "latency_cost",
    "make_budget",
    "parse_budget",
    "sensitivity",
    "solve",
    "weight_bits_cost",
]
