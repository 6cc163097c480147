"""The methods, by name; adding one is a file and a line here."""

from __future__ import annotations

from fewbits.errors import RecipeError
from fewbits.methods.base import Method
from fewbits.methods.factor import Factor, factored
from fewbits.methods.gptq import GPTQ
from fewbits.methods.hqq import HQQ
from fewbits.methods.learned import Learned
from fewbits.methods.nearest import Nearest
from fewbits.methods.refined import Refined
from fewbits.methods.search import Search
from fewbits.registry import Registry

__all__ = ["LEARNED", "METHODS", "Factor", "Learned", "Method", "factored", "get"]

METHODS: Registry[Method] = Registry("method", RecipeError)
for _method in (Nearest(), GPTQ(), HQQ(), Search(), Refined()):
    METHODS.add(_method.name, _method)

LEARNED: Registry[Learned] = Registry("learning", RecipeError)
"""What changes the codes of a whole layer, after a method has chosen them matrix by matrix."""
LEARNED.add("learned", Learned())


def get(name: str) -> Method:
    """The method called `name`; raises RecipeError, naming the nearest known names."""
    return METHODS.get(name)
