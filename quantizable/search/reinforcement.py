"""Reinforcement learning: an agent walks through the layers and chooses widths, as in HAQ and ARQ.

Wang et al., "HAQ", CVPR 2019; ARQ, 2024. An episode is one candidate: one action per decision, then, if it is
too expensive, bits are lowered from the last layer backwards; the reward comes at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from quantizable.network import QuantizableNetwork
from quantizable.nn.layer_calls import layer_calls
from quantizable.search.ddpg import Agent
from quantizable.search.problem import Problem
from quantizable.search.space import Genome, Space

WARM_UP = 20 / 600  # share of the episodes with random actions
NOISE, DECAY = 0.5, 0.99  # spread of the actions' noise and its factor per episode
REWARD = 0.1  # per percentage point of the score above or below the highest mode's


def layer_states(network: QuantizableNetwork, space: Space, image: Tensor) -> Tensor:
    """What the agent sees of each decision, ``[decisions, 10]`` in [0, 1]; column 8 (previous action) is 0.

    Columns: depthwise, channels in and out, stride, kernel size, parameters, input size, index of the
    decision, previous action, 1 for activations and 0 for weights.
    """
    layers = network.layers()
    calls = layer_calls(network, {name: layers[name] for name in space.layers}, image)
    sizes = {
        name: sum(call.given[1:].numel() for call in calls[name]) for name in space.layers
    }  # of all uses
    rows = []
    for index, name in enumerate(space.layers):
        layer: nn.Module = layers[name]
        shape = tuple(getattr(layer, "weight", torch.empty(0)).shape)
        groups, stride = getattr(layer, "groups", 1), getattr(layer, "stride", (1,))
        base = [float(groups > 1 and groups == shape[0]) if shape else 0.0]
        base += [float(shape[1] * groups) if len(shape) > 1 else 0.0, float(shape[0]) if shape else 0.0]
        base += [float(stride[0]), float(shape[-1]) if len(shape) > 2 else 1.0, float(math.prod(shape))]
        base += [float(sizes[name])]
        rows += [
            [*base, float(2 * index + is_activation), 0.0, float(is_activation)] for is_activation in (0, 1)
        ]
    states = torch.tensor(rows)
    low, high = states.min(0).values, states.max(0).values
    return (states - low) / (high - low).clamp(min=1e-12)


def width_index(action: float, widths: int) -> int:
    """The index that an action in [0, 1] means: equal parts of the interval (ARQ's rounding, on indices)."""
    return min(int(action * widths), widths - 1)


def reinforcement(problem: Problem) -> None:
    """One episode per evaluation; a candidate met before is not evaluated again, but learned from."""
    space = problem.space
    states = layer_states(problem.scorer.network, space, problem.scorer.images[:1])
    agent = Agent(states.shape[1], problem.seed)
    backwards = list(reversed(range(len(states))))
    reference = problem.value(space.highest)
    warm_up = max(1, round(WARM_UP * problem.evaluations))
    for episode in range(3 * problem.evaluations):  # ends, too, if the agent keeps to candidates it knows
        spread = NOISE * DECAY ** max(0, episode - warm_up)
        seen: list[Tensor] = []
        actions: list[float] = []
        for state in states:
            state = state.clone()
            state[8] = actions[-1] if actions else 0.0
            seen.append(state)
            actions.append(agent.random_action() if episode < warm_up else agent.action(state, spread))
        wanted: Genome = tuple(width_index(a, len(w)) for a, w in zip(actions, space.widths, strict=True))
        genome = space.lowered(wanted, problem.budget, backwards)
        reward = REWARD * 100 * (problem.value(genome) - reference)
        for i, (state, index, widths) in enumerate(zip(seen, genome, space.widths, strict=True)):
            # what was done counts, not what was wanted: the action that means the final width
            done = actions[i] if wanted[i] == index else (index + 0.5) / len(widths)
            last = i + 1 == len(seen)
            agent.remember((state, done, reward if last else 0.0, state if last else seen[i + 1], last))
        if episode >= warm_up:
            for _ in seen:
                agent.learn()
