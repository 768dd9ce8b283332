"""Figures that are ratios: each benchmark measures llmmagic and a peer in turns, in the same run."""
