"""State files: what carries a network from command to command.

:mod:`.format` is the file (plain tensors and JSON values), :mod:`.files` writes it whole or not at all and
reads it without running anything, :mod:`.models` rebuilds the network in it.
"""
