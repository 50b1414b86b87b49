"""Embedders and sparse encoders."""
