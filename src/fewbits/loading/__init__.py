"""Stored models as networks of transformers whose matrices stay packed, and networks as stored models."""
