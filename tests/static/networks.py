"""Small networks with what real ones have, weights drawn wide enough that a fault shows."""

from __future__ import annotations

import torch
from torch import nn


class Branches(nn.Module):
    """Convolutions with batch normalization, a residual sum, a concatenation, pools, a flat and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU6())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.narrow, self.wide = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(samples, 5) for `image` (samples, 3, 8, 8)."""
        x = self.pool(self.stem(image))
        x = torch.relu(x + self.second(self.first(x)))
        x = torch.cat([self.narrow(x), torch.relu(self.wide(x))], 1)
        x = self.average(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Perceptron(nn.Module):
    """Two linear layers with a normalization between that folds, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 6)
        self.third = nn.Linear(6, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, 3) for `x` (samples, 12)."""
        return self.third(nn.functional.gelu(self.second(torch.relu(self.norm(self.first(x))))))


class Encoder(nn.Module):
    """A table of tokens, a layer of a transformer, and a linear layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """States and logits for `ids` (samples, 6)."""
        states = self.layer(self.tokens(ids))
        return {"states": states, "logits": self.head(states.mean(1))}


def odd() -> nn.Module:
    """Padding by a word, filters of each channel its own, a normalization that cannot fold; for `images`."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), padding="same", dilation=2),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.ReLU6(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


class Attention(nn.Module):
    """Attention written out, with a token in front, and a gate behind."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norm, self.token = nn.LayerNorm(16), nn.Parameter(torch.ones(1, 1, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, 8) for `x` (samples, 5, 16)."""
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        states = self.norm(x)
        heads = [part(states).view(x.shape[0], 6, 2, 8).transpose(1, 2) for part in (self.query, self.key, self.value)]
        weights = (heads[0] @ heads[1].transpose(-1, -2) * 8**-0.5).softmax(-1)
        mixed = (weights @ heads[2]).transpose(1, 2).reshape(x.shape[0], 6, 16)
        left, right = (x + self.out(mixed)).chunk(2, -1)
        return (left * torch.sigmoid(right))[:, 0]


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode, with statistics and scales of its normalizations that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
            module.weight.data = torch.rand(module.num_features, generator=generator) + 0.5
            module.bias.data = torch.randn(module.num_features, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * fan**-0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=generator)
    return network.eval()


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
