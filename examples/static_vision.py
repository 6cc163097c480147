"""Train a small residual network on scikit-learn's handwritten digits and quantize it statically to whole numbers.

    python examples/static_vision.py [OUT.onnx]

Everything is seeded. What is printed: what each layer got and what it costs alone, and the accuracy before and after on
images that were not trained on. With OUT.onnx, the same numbers as a graph for ONNX Runtime (`pip install
'fewbits[onnx]'`). scikit-learn brings the images; nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import fewbits.static


class Residual(nn.Module):
    """Two convolutions with batch normalization, added to what came in, or to a convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.across = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, outputs, height / stride, width / stride)."""
        return self.relu(self.second(self.first(x)) + self.across(x))


def network() -> nn.Sequential:
    """Images (samples, 1, 8, 8) to logits (samples, 10)."""
    return nn.Sequential(
        Residual(1, 16, 1), Residual(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to train on, and the others."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return images[train], labels[train], images[test], labels[test]


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int = 6) -> nn.Sequential:
    """A network that was trained on `images`."""
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(65):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
    return net.eval()


def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that a network tells right."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def main() -> int:
    """Train, quantize, compare, and write the graph where one is asked for."""
    images, labels, others, wanted = digits()
    net = trained(images, labels)
    quantized = fewbits.static.quantize(net, images[:512].split(64))
    print(quantized.record.table())
    print(f"accuracy in float {accuracy(net, others, wanted):.4f}, in int8 {accuracy(quantized, others, wanted):.4f}")
    for path in sys.argv[1:]:
        fewbits.static.to_onnx(quantized, Path(path))
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
