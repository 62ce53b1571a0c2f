"""Files of tensors, read without running anything in them: what torch.save writes, and safetensors.

Start reading at :func:`.reader.read`. :mod:`.plain_pickle` turns a pickle into plain values and claims on
storage, :mod:`.torch_file` checks every claim against the storage that is there before any of it is read,
:mod:`.state_dicts` finds the weights in what people wrap around them.

Memory is bounded by twice the size of the file and 1 GiB: tensors take what their storages have in the file (a
storage, or a whole safetensors file, is held twice for a moment); pickles may have 16 MiB and two million steps.
"""
