"""Plain Lightning trains a prepared network, and what it kept is packed to what it computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fewbits import training

lightning: Any = pytest.importorskip("pytorch_lightning")


class Taught(lightning.LightningModule):  # type: ignore[misc]
    """A prepared network as Lightning wants one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        training.prepare(self.net, "int2_g32_sym_f16", activations="int4_learned")

    def training_step(self, batch: list[torch.Tensor], place: int) -> torch.Tensor:
        """The loss of a batch."""
        x, y = batch
        return torch.nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Rates of their own for weights and scales."""
        return torch.optim.Adam(training.parameter_groups(self.net, 3e-3, 1e-2))


@pytest.mark.filterwarnings("ignore")  # of Lightning's own, about what this test leaves out
def test_lightning_trains_and_resumes_a_prepared_network(tmp_path: Path) -> None:
    lightning.seed_everything(0)
    x = torch.randn(128, 64)
    y = torch.tanh(x[:, :4] * 2)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    model = Taught()
    with torch.no_grad():
        before = torch.nn.functional.mse_loss(model.net(x), y).item()

    trainer = lightning.Trainer(max_epochs=30, enable_checkpointing=False, **options)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")

    kept = Taught.load_from_checkpoint(tmp_path / "kept.ckpt").eval()
    with torch.no_grad():
        after = kept.net(x)
    assert torch.nn.functional.mse_loss(after, y).item() < 0.5 * before
    torch.testing.assert_close(training.convert(kept.net, inputs="exact")(x), after, rtol=1e-5, atol=1e-5)
