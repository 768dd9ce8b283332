"""The front ends: a kernel, a terminal, a plain script. Each draws the same cards its own way."""
