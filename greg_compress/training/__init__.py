"""The training loop, one for train, regularize and finetune. It knows nothing of pruning or of files.

Start reading at :mod:`.loop`. Randomness is a function of the position (:mod:`.randomness`), so a position
is all that a resume needs.
"""
