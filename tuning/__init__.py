"""Sweeps and scaling regimes on Ray Tune; see the README for what is here so far."""
