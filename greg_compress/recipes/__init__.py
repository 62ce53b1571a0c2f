"""Recipes: a TOML file that is a whole chain of commands, for a grid of values and several seeds.

No torch here: what is wrong with a recipe is said at once. :mod:`.recipe` reads and checks it, :mod:`.expand` makes
a task of every step in every cell, :mod:`.records` keeps what each task did, :mod:`.figures` puts the recipe's results
together, :mod:`.runner` runs what is missing. Commands themselves are typed by the command line, which hands itself
over as a function.
"""
