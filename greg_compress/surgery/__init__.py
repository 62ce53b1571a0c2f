"""Surgery: slice the planned units away, and prove that the network that is left is the right one.

:mod:`.cut` slices tensors and attributes; :mod:`.proof` holds the two proofs (labels, numbers).
"""
