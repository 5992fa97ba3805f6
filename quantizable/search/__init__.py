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
from quantizable.search.costs import Cost, bops_cost, bytes_cost, latency_cost
from quantizable.search.methods import METHODS
from quantizable.search.problem import Outcome, Problem, Trial, solve
from quantizable.search.scoring import Scorer
from quantizable.search.sensitivity import sensitivity
from quantizable.search.space import Space, parse_budget

__all__ = [
    "ABSTAIN",
    "COSTS",
    "METHODS",
    "OBJECTIVES",
    "Certification",
    "Certified",
    "CertifiedRadius",
    "Cost",
    "Incremental",
    "Outcome",
    "Problem",
    "Scorer",
    "Smoothing",
    "Space",
    "Trial",
    "average_certified_radius",
    "bops_cost",
    "bytes_cost",
    "certified_accuracy",
    "latency_cost",
    "parse_budget",
    "sensitivity",
    "solve",
]
