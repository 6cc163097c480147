"""How fast models run: rates, what bounds them, and what they cost in memory and energy."""
