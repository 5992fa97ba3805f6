"""Networks that call a layer or a norm more than once, or read one past its forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Reuse(nn.Module):
    """Two convolutions, two norms and a classifier; ``[N, 3, 8, 8]`` to ``[N, 5]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class OneNormBehindTwo(Reuse):
    """Two convolutions, one norm behind both."""

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.conv(x)).relu())).relu()


class OneLayerTwoNorms(Reuse):
    """RetinaNet's and EfficientDet's heads: a convolution used twice, a norm of its own each time."""

    def features(self, x: Tensor) -> Tensor:
        return self.other(self.conv(self.norm(self.conv(x)).relu())).relu()


class OnceWithoutNorm(Reuse):
    """A convolution, once with its norm and once without."""

    def features(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)).relu()).relu()


class NormBehindAddition(Reuse):
    """A norm behind a convolution and once more behind an addition."""

    def features(self, x: Tensor) -> Tensor:
        return self.norm(x + self.norm(self.conv(x)).relu()).relu()


class Siamese(Reuse):
    """The same convolution and norm twice."""

    def features(self, x: Tensor) -> Tensor:
        left, right = self.norm(self.conv(x)).relu(), self.norm(self.conv(-2 * x)).relu()
        return left - right


class TwoNames(Reuse):
    """The same, under a second name each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_again, self.norm_again = self.conv, self.norm

    def features(self, x: Tensor) -> Tensor:
        return self.norm_again(self.conv_again(self.norm(self.conv(x)).relu())).relu()


class TwoNamesTwoNorms(TwoNames):
    """Under a second name, and a norm of its own behind each."""

    def features(self, x: Tensor) -> Tensor:
        return self.other(self.conv_again(self.norm(self.conv(x)).relu())).relu()


class Tied(Reuse):
    """Two convolutions that share weight and bias, a norm behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight, self.second.bias = self.conv.weight, self.conv.bias

    def features(self, x: Tensor) -> Tensor:
        return self.other(self.second(self.norm(self.conv(x)).relu())).relu()


class TiedNorms(OneLayerTwoNorms):
    """Two norms that share their affine parameters, a convolution of its own in front of each."""

    def __init__(self) -> None:
        super().__init__()
        self.other.weight, self.other.bias = self.norm.weight, self.norm.bias

    def features(self, x: Tensor) -> Tensor:
        return self.other(self.second(self.norm(self.conv(x)).relu())).relu()


class NormReadDirectly(Reuse):
    """A norm behind a convolution, whose statistics a functional batch norm reads too."""

    def features(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight)


class BiasReadDirectly(Reuse):
    """The bias of a convolution with a norm is added once more."""

    def features(self, x: Tensor) -> Tensor:
        assert self.conv.bias is not None
        return self.norm(self.conv(x)).relu() + self.conv.bias.reshape(-1, 1, 1)


class FunctionalNorm(Reuse):
    """All batch norms are function calls."""

    def features(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv, self.norm), (self.second, self.other)):
            x = F.batch_norm(conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
        return x


class InPlace(Reuse):
    """A rectification in place, of what the norm reads and of what it gives, through a view."""

    def features(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        before.view(len(x), -1).relu_()
        after = self.norm(before)
        second = self.second(after)
        normed = self.other(second)
        normed.relu_()
        return normed + after


class TwoResolutions(Reuse):
    """A convolution and its norm on an image and on its half, one input grid for both."""

    def features(self, x: Tensor) -> Tensor:
        small = self.norm(self.conv(F.avg_pool2d(x, 2))).relu()
        return self.norm(self.conv(x)).relu() + F.interpolate(small, scale_factor=2.0)


class Hooked(Reuse):
    """A norm with a hook that changes its output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_hook(triple)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


def triple(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 3 * output


class DoublingNorm(nn.BatchNorm2d):
    """A norm with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OwnForward(Reuse):
    """A convolution, and such a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = DoublingNorm(3)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Tokens(nn.Module):
    """Norms behind linear layers on tokens: of the channels, as LeViT has them, and of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.mix = nn.Linear(8, 8)
        self.token_norm = nn.BatchNorm1d(8)  # as many tokens as channels, so that nothing else tells
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.transpose(1, 2).flatten(2))  # [N, 8 tokens, 8]
        x = self.norm(x.flatten(0, 1)).reshape_as(x).relu()
        return self.head(self.token_norm(self.mix(x)).relu().mean(1))


class SharedHeads(nn.Module):
    """EfficientDet's heads: convolutions shared by the levels of a pyramid, norms of each level's own."""

    def __init__(self, levels: int = 2, depth: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(4) for _ in range(depth)) for _ in range(levels)
        )
        self.predict = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = []
        for norms in self.norms:
            y = x
            for conv, norm in zip(self.convs, norms, strict=True):  # type: ignore[arg-type]
                y = F.silu(norm(conv(y)))
            found.append(self.predict(y).flatten(1))
            x = F.max_pool2d(x, 2)
        return torch.cat(found, 1)


# network, how many norms are folded
REUSING = [
    (OneNormBehindTwo, 0), (OneLayerTwoNorms, 0), (OnceWithoutNorm, 0), (NormBehindAddition, 0), (Siamese, 1),
    (TwoNames, 1), (TwoNamesTwoNorms, 0), (Tied, 2), (TiedNorms, 2), (NormReadDirectly, 0),
    (BiasReadDirectly, 0), (FunctionalNorm, 0), (InPlace, 1), (TwoResolutions, 1), (Hooked, 0),
    (OwnForward, 0), (Tokens, 1),
    (SharedHeads, 0),
]  # fmt: skip
