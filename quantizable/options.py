"""What :func:`quantizable.quantize` was asked for, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from quantizable.bits import FLOAT_BITS, check_bits
from quantizable.nn.norms import SHARING
from quantizable.quantizers import QUANTIZERS

FirstLast = int | Literal["mode", "float"]
OVERRIDES = ("quantizer", "bits", "per_channel")


@dataclass
class QuantizeConfig:
    """Everything :func:`quantize` was asked for, in plain types; saved with every checkpoint."""

    bits: list[str]
    quantizer: str = "lsq"
    first_last: FirstLast = 8
    norms: str = "per_mode"
    per_channel: bool | None = None
    attention: bool = False
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known_quantizer(self.quantizer)
        if self.first_last not in ("mode", "float"):
            self.first_last = fixed_width(self.first_last, 'first_last (or "mode", or "float")')
        true_or_false(self.per_channel, "per_channel")
        if self.norms not in SHARING:
            raise ValueError(f"norms {self.norms!r} is unknown; choose from {', '.join(SHARING)}")
        for pattern, options in self.overrides.items():
            for key, value in options.items():
                if key not in OVERRIDES:
                    raise ValueError(
                        f"override {key!r} of {pattern!r} is unknown; choose from {', '.join(OVERRIDES)}"
                    )
                if key == "quantizer":
                    known_quantizer(value)
                if key == "bits" and value not in ("mode", "float"):
                    options[key] = fixed_width(value, f"bits of override {pattern!r}")
                if key == "per_channel":
                    true_or_false(value, f"per_channel of override {pattern!r}")

    def asdict(self) -> dict[str, Any]:
        """The config as plain dictionaries, lists and scalars."""
        return asdict(self)


def known_quantizer(name: str) -> None:
    """``ValueError`` if no quantizer has that name."""
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer {name!r} is unknown; choose from {', '.join(QUANTIZERS)}")


def fixed_width(bits: Any, what: str) -> int:
    """A width of 2 to 16 bits (1 where the quantizer has it) out of ``8`` or ``"8"``; else ``ValueError``."""
    number = int(bits) if isinstance(bits, str) and bits.strip().isdecimal() else bits  # "8", as for a mode
    if check_bits(number, what) == FLOAT_BITS:
        raise ValueError(f'{what} is 32; write "float" to leave the layer unquantized')
    return int(number)


def true_or_false(value: Any, what: str) -> None:
    """``ValueError`` if ``value`` is neither a bool nor None."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; it must be True, False, or None for the quantizer's own way")


def pattern_list(patterns: str | Iterable[str]) -> list[str]:
    """The patterns as a list; a plain string is one."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def override_options(overrides: Any) -> dict[str, dict[str, Any]]:
    """A copy of the overrides; ``ValueError`` if they are no mapping of mappings."""
    example = 'a mapping such as {"layer4.*": {"bits": 8}}'
    if not isinstance(overrides, Mapping):
        raise ValueError(f"overrides is {overrides!r}; needed is {example}")
    for pattern, options in overrides.items():
        if not isinstance(options, Mapping):
            raise ValueError(f"override of {pattern!r} is {options!r}, no mapping; overrides is {example}")
    return {pattern: dict(options) for pattern, options in overrides.items()}
