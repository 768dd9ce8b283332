"""The chat panel: a conversation in the notebook that goes on while no cell runs.

Everything is decided and put into words here, in Python; the JavaScript in ``static/`` draws what it is sent, and says
what was clicked and typed. `commands` and `updates` are all that the two say to each other.
"""
