"""Unstructured pruning: the penalty's groups are single weights (the paper's Table 4).

A mask is True where a weight goes, or in a pruned network has gone: it is exactly zero there, through fine-tuning too.
Nothing changes its shape, so that only ratios play a part: no group is frozen or coupled. As in the authors' code one
ratio is that of every convolution and linear layer but the first convolution, shortcuts and output layer included.
Other than there the moving magnitude ratio is measured; it ends the phase early only if `--stop-ratio` is typed (the
code switches its own off for single weights). What one round removed no later one brings back.

:mod:`.layers` turns a selection into counts, :mod:`.masks` picks, :mod:`.hold` keeps zeros zero in training, and
:mod:`.phase` is GReg-1 and GReg-2 on weights.
"""
