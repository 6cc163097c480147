"""The loop that trains, the order and the optimizer it takes, and its state on the disk."""
