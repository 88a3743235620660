"""The nouns that all of dasksim speaks: arrays, variables, plans, conditions, policies; and checks of arguments."""
