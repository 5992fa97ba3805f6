"""A small DDPG agent for one continuous action in [0, 1] (Lillicrap et al., 2016), with HAQ's settings."""

from __future__ import annotations

import copy
import random
from collections import deque

import numpy as np
import torch
from scipy.stats import truncnorm
from torch import Tensor, nn

HIDDEN, BATCH, TAU, GAMMA = 300, 64, 0.01, 1.0
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3

Transition = tuple[
    Tensor, float, float, Tensor, bool
]  # state, action, reward, next state, whether it is the last


def _network(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
    )


class Agent:
    """Actor and critic with slowly following targets and a replay memory.

    Args:
        states: size of a state.
        seed: of initialization, noise and replay.
        memory: transitions kept.
    """

    def __init__(self, states: int, seed: int, memory: int = 10_000) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(_network(states), nn.Sigmoid())
            self.critic = _network(states + 1)
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), ACTOR_RATE)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), CRITIC_RATE)
        self.memory: deque[Transition] = deque(maxlen=memory)
        self.generator, self.noise = random.Random(seed), np.random.default_rng(seed)

    def random_action(self) -> float:
        """Uniform in [0, 1], for the warm-up."""
        return self.generator.random()

    @torch.no_grad()
    def action(self, state: Tensor, spread: float) -> float:
        """The actor's action for a state ``[states]``, with normal noise of that spread, cut at 0 and 1."""
        mean = float(self.actor(state))
        if spread < 1e-6:
            return mean
        return float(
            truncnorm.rvs(-mean / spread, (1 - mean) / spread, mean, spread, random_state=self.noise)
        )

    def remember(self, transition: Transition) -> None:
        """Put a transition into the replay memory."""
        self.memory.append(transition)

    def learn(self) -> None:
        """One step of the critic to the Bellman target, one of the actor up the critic; targets follow."""
        drawn = self.generator.sample(list(self.memory), min(BATCH, len(self.memory)))
        state, following = (
            torch.stack([t[0] for t in drawn]),
            torch.stack([t[3] for t in drawn]),
        )  # [B, states]
        action, reward = (
            torch.tensor([[t[1]] for t in drawn]),
            torch.tensor([[t[2]] for t in drawn]),
        )  # [B, 1]
        going_on = torch.tensor([[float(not t[4])] for t in drawn])
        with torch.no_grad():
            later = self.critic_target(torch.cat([following, self.actor_target(following)], 1))
            target = reward + GAMMA * going_on * later
        loss = nn.functional.mse_loss(self.critic(torch.cat([state, action], 1)), target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        value = self.critic(torch.cat([state, self.actor(state)], 1)).mean()
        self.actor_optimizer.zero_grad()
        (-value).backward()
        self.actor_optimizer.step()
        with torch.no_grad():
            for net, follower in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
                for now, slow in zip(net.parameters(), follower.parameters(), strict=True):
                    slow.lerp_(now, TAU)
