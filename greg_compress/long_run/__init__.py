"""The life of a command that trains: begin or resume, save now and then, stop when asked, finish.

Unfinished work lives in OUT.partial, never in OUT. SIGINT and SIGTERM are heard between two steps, so that
what is saved is always a whole position. Start reading at :mod:`.life`.
"""
