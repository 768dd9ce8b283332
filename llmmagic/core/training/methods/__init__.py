"""The ways of training: each says how it reads rows, which of TRL's trainers takes them and what it measures."""
