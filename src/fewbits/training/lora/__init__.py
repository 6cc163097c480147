"""Adapters (LoRA) on a base that stays as it is stored: added, saved, merged, written for llama.cpp."""
