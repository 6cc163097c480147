"""What training with quantization recovers on handwritten digits: weights and activations of 8, 4 and 2 bits.

    python bench/qat_vision.py IMAGES.gz LABELS.gz [--weights FILE] [--epochs 12] [--qat-epochs 6] [--bits 8 4 2]

IMAGES and LABELS are those of bench/vision.py, as are network, split and training in floats. Every convolution and
the linear layer, the first and the last included, gets weights with a scale and a zero point per output, and inputs
under one range.
"rounded" is what post-training rounding gives: the scales that the formats search for, the ranges with the least
squared error on 512 images that were trained on. "trained" is the same after QAT: all weights, scales and ranges
learn, taught by the network in floats, and packed modules compute the answers. "recovered" is the share of what
rounding lost that training brought back. p is McNemar's exact test against floats, over all judged images.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from pathlib import Path

import torch
from torch import nn

from fewbits import training
from vision import CALIBRATED, THREADS, Answers, Images, batches, mcnemar, read, right, trained


def taught(net: nn.Module, teacher: nn.Module, data: Images, epochs: int, rate: float) -> nn.Module:
    """`net` after `epochs` over images moved by up to two pixels, as the teacher saw them."""
    torch.manual_seed(1)
    steps = epochs * math.ceil(len(data.y) / 100)
    optimizer = torch.optim.AdamW(training.parameter_groups(net, rate, rate), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(epochs):
        for part in torch.randperm(len(data.y)).split(100):  # type: ignore[no-untyped-call]
            down, right_by = torch.randint(-2, 3, (2,)).tolist()
            moved = torch.roll(data.x[part], (down, right_by), (2, 3))
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = teacher(moved)
            training.distillation(net(moved), wanted, temperature=2.0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()


def both(net: nn.Module, bits: int, data: Images, test: Images, options: argparse.Namespace) -> tuple[Answers, Answers]:
    """Which images are told right after rounding, and after training with it."""
    rounded = copy.deepcopy(net)
    training.prepare(
        rounded,
        f"uint{bits}_row_asym",
        activations=f"int{bits}_learned",
        freeze_batch_norm_after=options.freeze * math.ceil(len(data.y) / 100),
    )
    training.calibrate(rounded, batches(data.x[:CALIBRATED], 64))
    before = right(rounded.eval(), test)
    rate = options.rate * (0.1 if bits == 8 else 1.0)
    after = training.convert(taught(rounded, net, data, options.qat_epochs, rate))
    return before, right(after, test)


def table(net: nn.Module, data: Images, test: Images, options: argparse.Namespace) -> str:
    """The table."""
    floats = right(net, test)
    lines = [
        "| weights and activations | floats | rounded | trained | recovered | p |",
        "|---|---|---|---|---|---|",
    ]
    for bits in options.bits:
        before, after = both(net, bits, data, test, options)
        lost, left = floats.mean() - before.mean(), floats.mean() - after.mean()
        recovered = f"{100 * (1 - left / lost):.0f}%" if lost > 0.001 else "-"
        accuracies = " | ".join(f"{100 * each.mean():.2f}" for each in (floats, before, after))
        lines.append(f"| INT{bits} | {accuracies} | {recovered} | {mcnemar(after, floats):.3f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join([*lines, "", f"{len(test.y)} images; {options.qat_epochs} epochs of QAT; {THREADS} threads."])


def main() -> int:
    """Read, train, round, train again, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--qat-epochs", type=int, default=6)
    parser.add_argument("--freeze", type=int, default=5, help="epochs after which batch normalization stays")
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 2])
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    data, test = read(options.images, options.labels)
    net = trained(data, options.epochs, options.weights)
    print(table(net, data, test, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
