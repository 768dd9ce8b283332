"""Conversations: messages, chat templates, the context window and the store. No torch, no transformers."""
