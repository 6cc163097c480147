"""ONNX as a container: a graph whose matrices are initializers, and nodes that say how quantized ones are read."""
