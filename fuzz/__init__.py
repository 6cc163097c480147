"""Fuzzing of everything that reads files: `python -m fuzz gguf --minutes 10 --seed 0`; see docs/design/0014."""
