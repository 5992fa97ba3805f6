"""Training schemes: which modes a step visits, what each is taught, and when the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quantizable.bits import BitMode
from quantizable.interface.errors import unknown
from quantizable.training.objectives import (
    Cascade,
    Consistency,
    Objective,
    Recursive,
    TaskOnly,
    kl_divergence,
)
from quantizable.training.samplers import (
    AllModes,
    LayerWise,
    Only,
    RandomK,
    Sampler,
    Sandwich,
    check_one_mode,
)


@dataclass(frozen=True)
class Scheme:
    """One way to train all modes together.

    Attributes:
        sampler: the modes of a step.
        objective: the loss of a mode.
        step_per_mode: an optimizer step after every mode instead of one for all.
        damp_scales: multiply the learning rate of the step sizes by ``1 - mean min(|gradient|, 1)``, which
            slows them where they swing (after the adaptive learning-rate scaling of Double Rounding,
            arXiv:2502.01199).
        single_mode: the scheme trains one network for one mode.
    """

    sampler: Sampler = field(default_factory=AllModes)
    objective: Objective = field(default_factory=Consistency)
    step_per_mode: bool = False
    damp_scales: bool = False
    single_mode: bool = False

    @property
    def learns_from_labels_alone(self) -> bool:
        """True if no mode learns from the outputs of another."""
        return isinstance(self.objective, TaskOnly)

    def check(self, modes: Sequence[BitMode]) -> None:
        """``ValueError`` if the scheme cannot train these modes."""
        if self.single_mode:
            check_one_mode(modes)
        self.sampler.check(modes)

    def check_training(self, accumulate: int, teacher: bool) -> None:
        """``ValueError`` if the scheme cannot be trained so.

        Args:
            accumulate: batches per optimizer step.
            teacher: a float network teaches.
        """
        if accumulate > 1 and self.step_per_mode:
            raise ValueError("a scheme with an optimizer step after every mode cannot accumulate batches")
        if teacher and self.learns_from_labels_alone:
            raise ValueError(
                "the scheme learns from labels alone and would ignore the teacher; choose another"
            )
        if teacher and getattr(self.objective, "alpha", 1) == 0:
            raise ValueError(
                "alpha=0 of the scheme's objective leaves the labels to the mode that has no teacher, and "
                "with a float teacher there is none; give alpha more than 0, or choose another scheme"
            )


SCHEMES: dict[str, Scheme] = {
    "quantizable": Scheme(),
    "any_precision": Scheme(objective=Recursive()),
    "adabits": Scheme(objective=TaskOnly()),
    "cascade": Scheme(objective=Cascade()),
    "double_rounding": Scheme(objective=TaskOnly(), step_per_mode=True, damp_scales=True),
    "sandwich": Scheme(sampler=Sandwich(), objective=Recursive(alpha=0.5, beta=0.5, distance=kl_divergence)),
    "random_k": Scheme(sampler=RandomK()),
    "layerwise": Scheme(sampler=LayerWise(), objective=Consistency(alpha=0.5, beta=0.5)),
    "individual": Scheme(objective=TaskOnly(), single_mode=True),
    "only": Scheme(sampler=Only()),
}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """The scheme of that name, or the scheme itself; ``ValueError`` for an unknown name."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise ValueError(unknown("scheme", scheme, SCHEMES))
    return SCHEMES[scheme]
