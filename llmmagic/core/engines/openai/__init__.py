"""The openai engine: a model that runs on a server which speaks OpenAI's HTTP API."""
