"""What leaves the house: merged weights, GGUF files, and what other programs need beside them."""
