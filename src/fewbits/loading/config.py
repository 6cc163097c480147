"""How a model is quantized while transformers loads it, as `quantization_config`: to config.json and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from fewbits.checkpoints.dialects import DIALECTS
from fewbits.checkpoints.directory_layout import METHOD
from fewbits.errors import RecipeError
from fewbits.layers.products import WIDE, require_known
from fewbits.loading.shorthand import recipe_name
from fewbits.loading.sources import formats_in
from fewbits.loading.stored import Stored


class Config(QuantizationConfigMixin):
    """What `from_pretrained(..., quantization_config=Config("nf4"))` does to the weights, as they are read.

    `recipe` is a name as `fewbits.quantize` takes it ("Q4_K_M", "int4_g128_sym_f16"), or the beginning of one ("nf4",
    "fp4", "int4", "int8") that `group_size`, `symmetric` and `double_quant` complete. `tensors` gives single modules
    other formats, and those that `modules_to_not_convert` names, with stars, stay as they are. `dialect` is how
    `save_pretrained` lays matrices out: None for the first that other programs read and that holds them all, else our
    own. `inputs` is how products take theirs where the recipe says nothing (layers/products.py): in 16 bits,
    "int8_group" or "exact". Raises RecipeError where there is no such recipe, or no such way.

    >>> Config("nf4", double_quant=True).recipe, Config("int4", group_size=64).recipe
    ('nf4_g64_dq', 'int4_g64_sym_f16')
    """

    quant_method = METHOD  # type: ignore[assignment]  # transformers lists its own, and takes others

    def __init__(
        self,
        recipe: str = "Q4_K_M",
        *,
        group_size: int | None = None,
        symmetric: bool = True,
        double_quant: bool = False,
        tensors: Mapping[str, str] | None = None,
        modules_to_not_convert: Sequence[str] = (),
        method: str | None = None,
        dialect: str | None = None,
        inputs: str = WIDE,
        **others: Any,
    ) -> None:
        unknown = set(others) - {"quant_method", "activations"}
        if unknown:
            raise RecipeError(f"fewbits.Config has no option {sorted(unknown)[0]!r}; a newer fewbits may know it.")
        if "quant_method" not in others:
            # A config.json may name a recipe of somebody's own: its matrices say themselves what they are.
            recipe = recipe_name(recipe, group_size=group_size, symmetric=symmetric, double_quant=double_quant)
        self.recipe = recipe
        self.tensors = dict(tensors or {})
        self.modules_to_not_convert = list(modules_to_not_convert)
        self.method = method
        self.dialect = dialect
        require_known(inputs)
        self.inputs = inputs
        self.stored: Stored | None = None
        """What was opened to be loaded; None where transformers has the weights."""
        self.stated: Mapping[str, Any] | None = None
        """What config.json says of a model that was saved in another dialect."""

    def to_dict(self) -> dict[str, Any]:
        """What config.json says: that of the dialect in which the model was saved last, else what makes this again."""
        if self.stated is not None:
            return dict(self.stated)
        said = {"quant_method": METHOD, "recipe": self.recipe, "method": self.method, "dialect": self.dialect}
        said["inputs"] = None if self.inputs == WIDE else self.inputs
        more = {"tensors": self.tensors, "modules_to_not_convert": self.modules_to_not_convert}
        return {key: value for key, value in (said | more).items() if value}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def for_stored(cls, stored: Stored) -> Config:
        """That of a model that was quantized before: its most frequent format, and the dialect that it lies in."""
        formats = formats_in(stored.source).most_common(1)
        config = cls(formats[0][0] if formats else "Q8_0")
        config.dialect = stored.source.dialect if stored.source.dialect in DIALECTS else None
        config.stored = stored
        return config
