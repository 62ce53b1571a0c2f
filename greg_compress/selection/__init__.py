"""Selection: from what the user asked for (ratios, skips) to a plan, which says what goes.

Start reading at :func:`greg_compress.selection.choose.choose`.
"""
