"""Wire formats, each usable alone: bytes in, values out, and back, knowing nothing of the proxy."""
