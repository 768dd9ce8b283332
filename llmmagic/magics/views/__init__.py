"""Events folded into what is to be seen: cards, that any front end can draw."""
