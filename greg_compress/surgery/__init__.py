"""Surgery: slice the planned units away, and prove that the network that is left is the right one.

:mod:`.cut` slices tensors and attributes; :mod:`.replay` (labels) and :mod:`.masking` (numbers) are the two proofs;
:mod:`.trial` finds out before any plan what can be cut; :mod:`.effect` says what a cut would leave.
"""
