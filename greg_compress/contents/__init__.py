"""What a file of ours holds and how it was made, one module per kind; nothing is built, nothing is run.

:mod:`.networks` reads states and weights and says where a network stands, :mod:`.onnx_files` what an ONNX file says of
itself; :mod:`.documents` needs no torch: plans, recipes, and what `greg run` writes.
"""
