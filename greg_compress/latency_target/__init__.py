"""From a target in measured time to how many units every group keeps.

Fewer MACs are not less time: onnxruntime's convolutions work on blocks of channels, small layers cost what a call
costs, and what is not a layer costs too. So each layer is measured here, on this machine, at a few widths
(:mod:`.layers`, :mod:`.probes`, :mod:`.timetable`); a small model tells what it takes at any other (:mod:`.surface`)
and the network with it (:mod:`.predict`); widths that keep the most within a time are searched (:mod:`.search`), the
whole network is exported and measured, and what the model was wrong by is corrected (:mod:`.reach`).
"""
