"""What a model is trained on: files, their tokens, and windows of them."""
