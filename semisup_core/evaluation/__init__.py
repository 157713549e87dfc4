"""Measuring an encoder: embeddings and named protocols."""
