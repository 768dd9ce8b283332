"""llmchat: talk to your own language model in the terminal, and always see what it can see."""
