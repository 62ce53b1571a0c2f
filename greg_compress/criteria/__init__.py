"""Criteria: what scores a unit. The units with the least scores go, whatever the schedule that removes them.

:mod:`.scores` gives the scores of a network's groups by any criterion, :mod:`.loss` measures on images what a removal
would cost (OBD and first-order Taylor).
"""
