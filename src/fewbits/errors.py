"""Every error a user can meet: one sentence that says what, where, why and what to do."""

from __future__ import annotations


class FewbitsError(Exception):
    """The root of all errors that fewbits raises on purpose; the command line prints it and exits with code 2."""


class FormatError(FewbitsError):
    """A number format is unknown, or cannot hold what it was given."""


class RecipeError(FewbitsError):
    """A recipe is unknown or malformed."""


class CheckpointError(FewbitsError):
    """A checkpoint is missing, damaged, unsafe or of a kind that is not supported."""


class VerificationError(FewbitsError):
    """A file that was just written does not say what its source says; it is not kept."""


class EvaluationError(FewbitsError):
    """A model or a text cannot be evaluated."""


class KernelError(FewbitsError):
    """The native module is missing a kernel, or was asked for an instruction set that this machine lacks."""


class CalibrationError(FewbitsError):
    """A model cannot be calibrated: too little text, or numbers that are none."""


class EngineError(FewbitsError):
    """A model, a prompt or a setting that the engine cannot run with."""


class HubError(FewbitsError):
    """The Hugging Face hub cannot be reached, lacks what was asked for, or does not take what was offered."""


class TransformError(FewbitsError):
    """A model cannot be rewritten as a transform wants to."""


class LoadingError(FewbitsError):
    """A stored model cannot become a network of transformers, or a network cannot be stored."""


class StaticError(FewbitsError):
    """A torch module cannot be exported, quantized statically, or written as an ONNX graph."""


class TrainingError(FewbitsError):
    """A model cannot be trained: settings, data, an adapter or a state that do not fit, or numbers that are none."""
