"""The real program and the real client of huggingface_hub against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from references.hub_server import TOKEN, Hub, Repository, serving

Done = subprocess.CompletedProcess[str]
README = b"---\nlicense: other\nlicense_name: pocket\nlicense_link: LICENSE\ntags: [x]\n---\n# Pocket\n"


@dataclass
class Machine:
    """A machine with a home of its own, where fewbits runs."""

    home: Path
    hub: Hub
    environment: dict[str, str] = field(default_factory=dict)

    def fewbits(self, *arguments: object, **changes: str | None) -> Done:
        """Run the program; `changes` are variables of its environment, None for one that is not set."""
        own = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home / "hf"),
            "HF_HUB_OFFLINE": "0",
            # Xet's storage has a protocol of its own, which no server of ours speaks; without it the client takes LFS.
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
            # Other tests run beside these, and the client gives up after ten seconds.
            "HF_HUB_ETAG_TIMEOUT": "100",
            "HF_HUB_DOWNLOAD_TIMEOUT": "100",
            "NO_COLOR": "1",
        }
        wanted = {**os.environ, **own, **self.environment, **changes}
        environment = {name: value for name, value in wanted.items() if value is not None}
        command = [sys.executable, "-m", "fewbits", *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env=environment, cwd=self.home
        )
        said = done.stdout + done.stderr
        assert TOKEN not in said
        assert "secret-of" not in said
        return done

    def card(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / name).read_text(encoding="utf-8"))
        return found


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found
        assert found.tokens_elsewhere == []


@pytest.fixture
def machine(tmp_path: Path, hub: Hub) -> Machine:
    return Machine(tmp_path, hub)


@pytest.fixture
def repository(hub: Hub, pocket: Path) -> Repository:
    """org/pocket, the embedded model, with weights of 16.8 MB, a pickle, and weights of another framework."""
    found = hub.repositories["org/pocket"] = Repository()
    weights = Path(os.environ["PYTEST_HUB_WEIGHTS"])
    files = {f.name: f.read_bytes() for f in pocket.iterdir() if f.is_file() and f.suffix != ".safetensors"}
    files |= {"README.md": README, "model.safetensors": weights.read_bytes(), "pytorch_model.bin": b"\x80\x02" * 9000}
    found.commit_files({**files, "consolidated.safetensors": b"\0" * 20_000, "onnx/model.onnx": b"\0" * 20_000})
    return found


@pytest.fixture(scope="session", autouse=True)
def _weights(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The embedded model in float32: more than the 10 MB in which the client writes down what has come."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(_float32(pocket / "model.safetensors"), path)
    os.environ["PYTEST_HUB_WEIGHTS"] = str(path)


def _float32(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    from fewbits.checkpoints.safetensors import SafetensorsReader

    reader = SafetensorsReader(path)
    tensors = {name: reader.read(name) for name in reader.names()}
    return {n: (t.buffer.view("<u2").astype("<u4") << 16).view("<f4").reshape(t.shape) for n, t in tensors.items()}


def refused(done: Done, *words: str) -> None:
    """One sentence, exit code 2, nothing on stdout."""
    assert "Traceback" not in done.stderr
    assert "a bug in fewbits" not in done.stderr
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("fewbits: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
