#!/usr/bin/env bash
# neon.sh: compile the kernels for 64-bit ARM and run their self-test where an emulator is there.
set -euo pipefail
compiler=${CXX_AARCH64:-aarch64-linux-gnu-g++}
emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
build=build/neon

if ! command -v "$compiler" >/dev/null; then
  echo "make neon: SKIPPED, there is no $compiler (Debian: apt install g++-aarch64-linux-gnu)." >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
fi
cmake=$(command -v cmake || echo .venv/bin/cmake)
"$cmake" -S native/selftest -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_EXE_LINKER_FLAGS=-static \
  -DCMAKE_BUILD_TYPE=Release >/dev/null
"$cmake" --build "$build" --parallel 2
echo "make neon: the kernels compile for aarch64."
if [ -z "$emulator" ]; then
  echo "make neon: the self-test was NOT run, there is no qemu-aarch64 (Debian: apt install qemu-user-static)." >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
fi
"$emulator" "$build/fewbits_selftest"
echo "make neon: the self-test passed under emulation."
