"""The story of a run, collected from its files and told on one page; nothing is built, run or measured again.

:mod:`.documents` reads any file of ours, :mod:`.chains` finds what belongs together by digests. :mod:`.measures`,
:mod:`.checks`, :mod:`.steps` and :mod:`.cautions` collect figures, proofs, commands and warnings, each with the file
that tells it, and :mod:`.told` all of them. :mod:`.pictures` says what of a state's log can be drawn, :mod:`.drawings`
draws it for the page, :mod:`.page` fills the template beside it.
"""
