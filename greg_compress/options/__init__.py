"""The options of each stage, as frozen values. No torch here: what is wrong with them is said at once."""
