"""Wiring: which channels hang together, found by running the network on labels.

Start reading at :func:`greg_compress.wiring.groups.find_groups`; then :mod:`.trace` (the run),
:mod:`.rules` and :mod:`.layers` (what each ATen operation does to labels), and :mod:`.labels` (the integers). What slow
operations make without any arithmetic is in :mod:`.on_meta`.
Nothing here knows about ratios, scores or weights' values.
"""
