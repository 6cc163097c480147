#!/usr/bin/env bash
# setup.sh PYTHON VENV: make the virtual environment and install fewbits into it, editable, with its test tools.
set -euo pipefail
python=$1
venv=$2
torch=2.13.0

fail() {
  echo "make setup: $*" >&2
  exit 1
}

command -v "$python" >/dev/null || fail "there is no '$python'; install Python 3.10 or newer, or say PYTHON=/path/to/python3."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "'$python' is older than Python 3.10."
command -v "${CXX:-g++}" >/dev/null || fail "there is no C++ compiler; install g++ (Debian: apt install g++)."
"$python" -c 'import sys, sysconfig, pathlib; sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' ||
  fail "Python's headers are missing (Debian: apt install python3-dev)."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
  fail "Python cannot make a virtual environment (Debian: apt install python3-venv)."

pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

# On Linux the plain name `torch` brings gigabytes of CUDA. The local version +cpu exists only without it, so this line
# can resolve to nothing else: from PyTorch's own index, or from whatever wheels pip is configured to find.
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  wanted="torch==$torch"
  [ "$(uname -s)" = Linux ] && wanted="torch==$torch+cpu"
  echo "Installing $wanted ..."
  pip install --quiet --retries 2 --extra-index-url https://download.pytorch.org/whl/cpu "$wanted" ||
    fail "no CPU build of torch $torch was found for this machine; install one into $venv yourself and run make again."
fi

# The package is built here, in the open, so that an edit of a Python file needs no new installation.
echo "Building and installing fewbits ..."
pip install --quiet "scikit-build-core>=0.10" "nanobind>=2.0" cmake ninja
PATH="$(cd "$venv/bin" && pwd):$PATH" pip install --quiet --no-build-isolation --editable ".[test]"
