"""The searches by name."""

from quantizable.search.evolution import evolution
from quantizable.search.fisher import fisher
from quantizable.search.greedy import greedy
from quantizable.search.integer import integer
from quantizable.search.problem import Method
from quantizable.search.reinforcement import reinforcement
from quantizable.search.uniform_bits import uniform

METHODS: dict[str, Method] = {
    "uniform": uniform,
    "greedy": greedy,
    "integer": integer,
    "fisher": fisher,
    "evolution": evolution,
    "reinforcement": reinforcement,
}
