"""``raysim bench``: client updates per second beside a hand-written PyTorch loop and the machine's sgemm rate."""
