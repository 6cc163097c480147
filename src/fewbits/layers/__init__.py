"""torch modules whose matrices are stored in formats: quantized where they stand, decoded when they are called."""
