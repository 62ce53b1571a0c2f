"""From Python: a notebook, or somebody else's training loop. docs/python.md shows it.

A thin layer over what the stages call: :class:`.network.Network` is what they do to a network that is in memory,
:class:`.penalty.Penalty` the paper's phase in a loop that is not ours. Beside `cli`, and like it imported by no other
room.
"""
