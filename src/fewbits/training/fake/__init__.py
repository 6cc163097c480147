"""Fake quantization: what a weight or an input becomes when it is stored, forward, and gradients past it, backward."""
