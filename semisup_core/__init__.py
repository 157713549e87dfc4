"""Encoders, augmenters, method losses, data and evaluation; knows nothing of clusters or trackers."""
