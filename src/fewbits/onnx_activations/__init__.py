"""ONNX graphs whose products run on whole numbers: activations rounded at scales fixed before, or found at run time."""
