"""What stands in a lowered network where its quantizers stood: a grid for the input, integers for the weight.

In torch a node gives the values that the fake-quant network computes with. While ``torch.onnx.export`` runs,
it writes ONNX operators, in one of two styles:

* ``"qdq"``: QuantizeLinear, Clip and DequantizeLinear in an 8-bit container (ONNX operators, opset 21), which
  engines fuse with the matrix product behind them into an integer kernel;
* ``"qonnx"``: ``Quant`` of any bit-width, for FPGA compilers (Pappalardo et al. 2022, arXiv:2206.07527).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from quantizable.deploy.saturation import headroom
from quantizable.storage.integers import IntegerInput, IntegerWeight

OPSET = 21
QONNX_DOMAIN = "qonnx.custom_op.general"
LAYER_KEY = "quantizable.layer"  # metadata of the ONNX nodes: which layer they belong to


def write_quant(
    x: Tensor,
    scale: Tensor,
    zero: Tensor,
    bits: Tensor,
    layer: str,
    signed: bool = True,
    narrow: bool = False,
) -> Tensor:
    """One QONNX ``Quant`` node; zero point and bit-width are float scalars."""
    return symbolic(
        f"{QONNX_DOMAIN}::Quant",
        (x, scale, zero, bits),
        {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "ROUND"},
        dtype=torch.float32, shape=x.shape, version=1, metadata_props={LAYER_KEY: layer},
    )  # fmt: skip


def code_offset(grid: IntegerInput) -> int:
    """What is added to signed codes: the integer kernels of x86 take unsigned bytes.

    It is as small as can be: engines add it in float32 before they round, which moves codes near a tie.
    """
    return -grid.low if grid.signed else 0


class InputNode(nn.Module):
    """Puts a layer's input on its integer grid.

    Args:
        grid: scale, zero point and code range.
        layer: name of the layer, for the report and the ONNX nodes.
    """

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor
    real_zero: Tensor
    width: Tensor

    def __init__(self, grid: IntegerInput, layer: str) -> None:
        super().__init__()
        self.grid = grid
        self.layer = layer
        self.bits, self.calibrating = grid.bits, False  # as of the quantizer, which attention asks
        self.style = "qdq"
        self.drops_remainder = False  # True once the layer adds the remainder's share to its output
        self.remainder = grid.remainder * float(grid.scale)  # in units of the input
        self.register_buffer("scale", grid.scale.float().reshape(()))
        offset = self.offset = code_offset(grid)
        self.register_buffer("real_zero", torch.tensor(float(grid.zero_point + grid.remainder)))
        self.register_buffer("width", torch.tensor(float(grid.bits)))
        self.highest_code = grid.high + offset  # of the unsigned byte that engines see
        self.fits_uint8 = grid.high + offset <= 255 and grid.low + offset >= 0
        self.clips = (grid.low + offset, grid.high + offset) != (0, 255)
        if self.fits_uint8:
            for name, code in (("zero", grid.zero_point), ("low", grid.low), ("high", grid.high)):
                self.register_buffer(name, torch.tensor(code + offset, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self._write(x)
        remainder = 0.0 if self.drops_remainder else self.grid.remainder
        return (self.grid.codes(x.float()) - self.grid.zero_point - remainder) * self.scale

    def _write(self, x: Tensor) -> Tensor:
        """The same in ONNX operators."""
        if self.style == "qonnx":
            narrow = self.grid.signed and self.grid.low == -self.grid.high
            return write_quant(
                x, self.scale, self.real_zero, self.width, self.layer, self.grid.signed, narrow
            )
        note = {LAYER_KEY: self.layer}
        if self.remainder:
            x = x + self.remainder
        codes = symbolic(
            "QuantizeLinear", (x, self.scale, self.zero), dtype=torch.uint8, shape=x.shape, version=OPSET,
            metadata_props=note,
        )  # fmt: skip
        if self.clips:
            codes = symbolic(
                "Clip", (codes, self.low, self.high), dtype=torch.uint8, shape=x.shape, version=OPSET,
                metadata_props=note,
            )  # fmt: skip
        value = symbolic(
            "DequantizeLinear", (codes, self.scale, self.zero), dtype=torch.float32, shape=x.shape,
            version=OPSET, metadata_props=note,
        )  # fmt: skip
        return value - self.remainder if self.remainder and not self.drops_remainder else value


class RangeNode(nn.Module):
    """Clamps what a convolution computed to the range of a grid; the reader of the sum rounds.

    Args:
        grid: scale, zero point and code range.
    """

    def __init__(self, grid: IntegerInput) -> None:
        super().__init__()
        self.low, self.high = (float((code - grid.zero_point) * grid.scale) for code in (grid.low, grid.high))
        self.calibrating = False

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


class WeightNode(nn.Module):
    """Holds a layer's weight as integers and one scale per tensor or output channel.

    Args:
        weight: integers and scale.
        axis: axis of the output channels in the weight.
        layer: name of the layer.
    """

    integers: Tensor
    scale: Tensor
    no_zero: Tensor
    float_width: Tensor

    def __init__(self, weight: IntegerWeight, axis: int, layer: str) -> None:
        super().__init__()
        self.axis, self.layer, self.bits = axis, layer, weight.bits
        self.style = "qdq"
        self.shift = 0
        low, high = int(weight.integers.min()), int(weight.integers.max())
        self.width = max((-low - 1).bit_length(), high.bit_length()) + 1  # two's complement bits in use
        # 8-bit weights without zero level (DoReFa, SAT) are odd numbers up to 255: no int8
        self.fits_int8 = self.width <= 8
        self.register_buffer("integers", weight.integers.to(torch.int8 if self.fits_int8 else torch.int32))
        self.register_buffer("scale", weight.scale.float())
        self.register_buffer("no_zero", torch.zeros(()))
        self.register_buffer("float_width", torch.tensor(float(self.width)))

    def multiply(self, factor: Tensor) -> None:
        """Scale the weight by one factor per output channel (a folded norm)."""
        shape = [-1 if d == self.axis else 1 for d in range(self.integers.dim())]
        self.scale = (self.scale.double() * factor.double().reshape(shape)).float()

    def use_headroom(self, highest_code: int) -> None:
        """Move the integers up within int8, the scale down by the same power of two.

        Nothing changes but the unit of the accumulator, to which ONNX Runtime's fused kernels round the bias.
        They move only as far as no kernel without VNNI saturates.

        Args:
            highest_code: largest unsigned code of the input, 0 to 255.
        """
        self.shift = headroom(self.channels_first(), highest_code) if self.fits_int8 else 0
        self.integers = self.integers << self.shift
        self.scale = self.scale / (1 << self.shift)

    def channels_first(self) -> np.ndarray:
        """The integers as ``[output channels, ...]``; all other axes are summed over."""
        return self.integers.transpose(0, self.axis).cpu().numpy()

    def value(self) -> Tensor:
        """The weight as float32."""
        return self.integers * self.scale

    def forward(self, weight: Tensor | None = None) -> Tensor:
        """The weight's value; the float weight that the layer passes in is not used."""
        if not torch.onnx.is_in_onnx_export():
            return self.value()
        if self.style == "qonnx":
            return write_quant(self.value(), self.scale, self.no_zero, self.float_width, self.layer)
        if not self.fits_int8:
            return self.value()
        per_channel = self.scale.numel() > 1
        return symbolic(
            "DequantizeLinear",
            (self.integers, self.scale.flatten() if per_channel else self.scale.reshape(())),
            {"axis": self.axis} if per_channel else {},
            dtype=torch.float32,
            shape=self.integers.shape,
            version=OPSET,
            metadata_props={LAYER_KEY: self.layer},
        )


def node_layer(node: Any) -> str | None:
    """Which layer an ONNX node belongs to, if it came from a quantizer."""
    return next((p.value for p in node.metadata_props if p.key == LAYER_KEY), None)
