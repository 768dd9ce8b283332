"""The IPython extension: parse a line or cell, call the session, draw its events."""
