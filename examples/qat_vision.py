"""Train a small network on scikit-learn's handwritten digits, then again while it computes in a few bits.

    python examples/qat_vision.py [--bits 2] [--epochs 12]

Everything is seeded. What is printed: the accuracy, on images that were not trained on, of the network in floats, of
what rounding to BITS makes of it (weights per output, inputs of every layer under one range that a calibration set
fixes), and of the same after training with that rounding, taught by the network in floats. The last one is that of
packed modules, which compute what the trained ones did. scikit-learn brings the images; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

from fewbits import training


def network() -> nn.Sequential:
    """Images (samples, 1, 8, 8) to logits (samples, 10)."""
    first = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    second = (nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to train on, and the others."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1300], order[1300:]
    return images[train], labels[train], images[test], labels[test]


def fit(net: nn.Module, images: torch.Tensor, wanted: nn.Module | torch.Tensor, epochs: int, rate: float) -> nn.Module:
    """`net`, taught by labels or by another network, which answers the same images."""
    optimizer = torch.optim.AdamW(training.parameter_groups(net, rate, rate), lr=rate)
    steps = epochs * len(torch.arange(len(images)).split(50))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    drawn = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=drawn).split(50):
            optimizer.zero_grad()
            if isinstance(wanted, nn.Module):
                with torch.no_grad():
                    answers = wanted(images[part])
                loss = training.distillation(net(images[part]), answers, temperature=4.0)
            else:
                loss = nn.functional.cross_entropy(net(images[part]), wanted[part])
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that a network tells right."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def main(arguments: list[str] | None = None) -> int:
    """Train, round, train again, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args(arguments)
    images, labels, others, wanted = digits()
    torch.manual_seed(0)
    net = fit(network(), images, labels, options.epochs, 1e-2)
    rounded = copy.deepcopy(net)
    training.prepare(rounded, f"uint{options.bits}_row_asym", activations=f"int{options.bits}_learned")
    training.calibrate(rounded, images[:512].split(64))
    before = accuracy(rounded, others, wanted)
    taught = training.convert(fit(rounded, images, net, options.epochs, 1e-2 if options.bits < 8 else 1e-3))
    print(f"accuracy in floats {accuracy(net, others, wanted):.4f}")
    print(f"in {options.bits} bits, rounded {before:.4f}, trained {accuracy(taught, others, wanted):.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
