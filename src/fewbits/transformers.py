"""`import fewbits.transformers` makes transformers' `from_pretrained` know directories in our dialect, and `Config`."""

from fewbits.loading.config import Config
from fewbits.loading.quantizer import register

__all__ = ["Config"]

register()
