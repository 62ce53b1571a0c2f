"""Pictures, drawn from plain figures; where those come from is the stage's business (:mod:`greg_compress.plot`).

One file per picture, each with what it needs and how it is drawn: :mod:`.accuracy`, :mod:`.penalty`,
:mod:`.separation`, :mod:`.norms`, :mod:`.kept`. :mod:`.page` puts them on one page, :mod:`.style` is what they share.
matplotlib without pyplot: no window, no global figure, and the same bytes for the same figures.
"""

import logging

# It would tell of a font cache that it builds, or of a home that it cannot write to; neither matters here.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
