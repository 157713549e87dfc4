"""Data: sources of images, the random-access store they are prepared into, and the splits of its rows."""
