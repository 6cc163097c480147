#!/usr/bin/env bash
# install_peers.sh VENV: the real llama.cpp, bitsandbytes, torchao and others, for tests/peers, in the versions that pyproject.toml names.
set -euo pipefail
venv=$1
wanted=$("$venv/bin/python" -c '
import importlib.metadata as metadata
print(*[r.split(";")[0].strip() for r in metadata.requires("fewbits") if "extra ==" in r and "peers" in r.split("extra ==")[1]])')
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet cmake ninja
# shellcheck disable=SC2086 - a list of requirements without spaces in them
PATH="$(cd "$venv/bin" && pwd):$PATH" "$venv/bin/python" -m pip install --disable-pip-version-check --quiet $wanted
