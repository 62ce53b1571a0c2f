"""A picture as an `svg` element that can stand in an HTML page beside others: text stays text, nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from greg_compress.figures.page import Picture, page, rendered

KEPT = {"svg", "g", "path", "text", "tspan", "use", "defs", "clipPath", "rect", "line", "polyline", "polygon", "circle",
        "ellipse", "image", "linearGradient", "stop"}  # fmt: skip


def inline(picture: Picture, name: str, label: str) -> str:
    """Draw a picture.

    Args:
        name: what its ids begin with; no other picture of the page may have the same.
        label: what it shows, for those who do not see it.
    """
    root = ElementTree.fromstring(rendered(page([picture]), "svg", words=True))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) not in KEPT:
                parent.remove(child)  # the exporter's metadata, and a style sheet that would reach the whole page
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = dict(_own(element.attrib, name))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _own(attributes: dict[str, str], name: str) -> Iterator[tuple[str, str]]:
    """Attributes with ids that are this picture's alone, without namespaces: HTML knows those of SVG by itself."""
    for key, value in attributes.items():
        local = _local(key)
        if local == "id":
            yield local, f"{name}-{value}"
        elif local == "href":
            yield local, f"#{name}-{value.removeprefix('#')}" if value.startswith("#") else value
        else:
            yield local, re.sub(r"url\(#", f"url(#{name}-", value)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
