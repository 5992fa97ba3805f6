"""Statistics of batch norms from few images: how far a mode moved from a reference on the same images.

The stored statistics of a trained network come from a million images; those of a few hundred are no match for
them, unless quantization has moved what a norm sees. So a mode is measured against a reference, the highest
mode, on the same images: what the choice of images does to both cancels (control variates; Owen, "Monte Carlo
theory, methods and examples", 2013, ch. 8.9). With a the mean, V the variance of a channel over the images::

    mean = mean_ref + (a - a_ref)          log var = log var_ref + log V - log V_ref

where ``mean_ref`` and ``var_ref`` are the reference's stored statistics. This is then blended with what the
mode has stored, by the posterior mean of a normal prior and a normal sampling error whose variance is
estimated from groups of images, e; the prior's variance comes from all channels of the norm (empirical Bayes;
Efron and Morris, JASA 1973)::

    stored + d * t / (t + e)     d = found - stored,  t = max(0, mean over channels of d^2 - e)

where means and their e are in units of the stored standard deviation. What moved no further than chance
explains stays as it was. A norm that was hardly trained (:func:`is_fresh`) has nothing to be blended with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quantizable.nn.norms import PerModeNorm

BEGINNING = 0.01  # share of mean 0 and variance 1 from which on running statistics say too little of the data
GROUPS = 8  # of images in a batch, whose spread gives the sampling error


@dataclass
class _Record:
    """Of one norm: what it had stored, ``[C]``, and the moments of the groups of each batch, ``[G, C]``."""

    mean: Tensor
    var: Tensor
    fresh: bool
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    fitted: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor) -> None:
        first, second = group_moments(x)
        self.first.append(first)
        self.second.append(second)

    def moments(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.first), torch.cat(self.second)


class NormStatistics:
    """Watches the norms of one mode and fits their statistics to what they saw, batch by batch.

    Args:
        norms: of the mode, by a name that is the same in all modes, in evaluation mode when they are watched.
        reference: that of the reference mode, which sees each batch before this one; None: this is it.
    """

    def __init__(self, norms: Mapping[str, _BatchNorm], reference: NormStatistics | None = None) -> None:
        self.norms, self.reference = norms, reference
        self.records = {name: _record(norm) for name, norm in norms.items()}

    @contextmanager
    def fitting(self, keep: bool = False) -> Iterator[None]:
        """For the length of a ``with`` block fit each norm to its input before it uses its statistics.

        Args:
            keep: leave the statistics that were stored, if any data ever went into them.
        """
        with ExitStack() as stack:
            for name, norm in self.norms.items():

                def see(norm: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                    record = self.records[name]
                    record.add(inputs[0])
                    stored = record.mean, record.var
                    record.fitted = stored if keep and not record.fresh else self._fitted(name, record)
                    _write(norm, *record.fitted)

                stack.callback(norm.register_forward_pre_hook(see).remove)
            yield

    def restore(self) -> None:
        """Put the stored statistics back."""
        for name, norm in self.norms.items():
            _write(norm, self.records[name].mean, self.records[name].var)

    def write(self) -> None:
        """Put the statistics that were fitted last."""
        for name, norm in self.norms.items():
            fitted = self.records[name].fitted
            if fitted is not None:
                _write(norm, *fitted)

    def _fitted(self, name: str, record: _Record) -> tuple[Tensor, Tensor]:
        other = self.reference.records.get(name) if self.reference else None
        moments = record.moments()
        if record.fresh or other is None or other.fitted is None:
            return fitted_statistics(record.mean, record.var, moments, fresh=record.fresh)
        count = len(moments[0])  # a norm that is used twice has seen more of the reference's batch
        theirs = tuple(part[:count] for part in other.moments())
        return fitted_statistics(record.mean, record.var, moments, theirs, other.fitted)  # type: ignore[arg-type]


def fitted_statistics(
    mean: Tensor,
    var: Tensor,
    moments: tuple[Tensor, Tensor],
    reference_moments: tuple[Tensor, Tensor] | None = None,
    reference: tuple[Tensor, Tensor] | None = None,
    fresh: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel by the formula above.

    Args:
        mean, var: stored, ``[C]``.
        moments: means of x and of x^2 in each group of images, ``[G, C]``.
        reference_moments: the same of the reference mode, in the same groups.
        reference: its mean and variance, ``[C]``; None for both: the moments are taken as they are.
        fresh: the stored statistics say nothing.
    """
    first, second = moments
    found_mean, found_var, influence = _variance(first, second)
    found_log = found_var.log()
    if reference is not None and reference_moments is not None:
        other_mean, other_var, other_influence = _variance(*reference_moments)
        found_mean = reference[0] + found_mean - other_mean
        found_log = reference[1].clamp_min(SMALLEST).log() + found_log - other_var.log()
        first, influence = first - reference_moments[0], influence - other_influence
    if fresh:
        return found_mean, found_log.exp()
    deviation = var.clamp_min(SMALLEST).sqrt()
    log_var = var.clamp_min(SMALLEST).log()
    shift = _shrunk((found_mean - mean) / deviation, first / deviation)
    return mean + shift * deviation, (log_var + _shrunk(found_log - log_var, influence)).exp()


SMALLEST = 1e-12  # of a variance: a channel may be constant


def _variance(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance, and each group's influence on the latter's logarithm (delta method), ``[G, C]``."""
    mean = first.mean(0)
    var = (second.mean(0) - mean.square()).clamp_min(SMALLEST)
    return mean, var, (second - 2 * mean * first) / var


def _shrunk(distance: Tensor, samples: Tensor) -> Tensor:
    """``distance [C]``, the mean of samples ``[G, C]`` less something fixed, shrunk by its sampling error."""
    if len(samples) < 2:
        return torch.zeros_like(distance)  # nothing is known of the error
    error = samples.var(0) / len(samples)
    prior = (distance.square() - error).mean().clamp_min(0)
    return distance * prior / (prior + error).clamp_min(SMALLEST)


def group_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means of ``x`` and of its square in up to 8 groups of images: ``[G, C]`` float32; x ``[N, C, ...]``."""
    values = x.detach().float().reshape(*x.shape[:2], -1)
    # of each image; a norm is several times as fast as torch.var_mean
    parts = values.mean(2), torch.linalg.vector_norm(values, dim=2).square() / values.shape[2]
    groups = min(GROUPS, len(x))
    first, second = (torch.stack([group.mean(0) for group in part.tensor_split(groups)]) for part in parts)
    return first, second


def _record(norm: _BatchNorm) -> _Record:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return _Record(norm.running_mean.float().clone(), norm.running_var.float().clone(), is_fresh(norm))


def _write(norm: nn.Module, mean: Tensor, var: Tensor) -> None:
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(var)


def is_fresh(norm: _BatchNorm) -> bool:
    """True if the running statistics are those that a norm begins with (mean 0, variance 1), or still hold
    more than ``BEGINNING`` of these: a few passes in training mode move them by a momentum each.
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        return False
    if not mean.any() and bool((var == 1).all()):
        return True
    passes = 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)
    # none: of weights that were published without the count
    return passes > 0 and norm.momentum is not None and (1 - norm.momentum) ** passes > BEGINNING


def active_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Batch norms with running statistics that the current assignment runs."""
    return [*named_batch_norms(network).values()]


def named_batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The same by a name that all modes share."""
    found: dict[str, nn.Module] = {}
    copies: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, PerModeNorm):
            copies.update(copy for norm in module.norms.values() for copy in norm.modules())
            found |= {f"{name}.{inner}": active for inner, active in module.active.named_modules()}
        elif module not in copies:
            found[name] = module
    return {n: m for n, m in found.items() if isinstance(m, _BatchNorm) and m.track_running_stats}
