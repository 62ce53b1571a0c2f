"""Files of tensors, read without running anything in them: what torch.save writes, and safetensors.

Start reading at :func:`.reader.read`. :mod:`.plain_pickle` turns a pickle into plain values and claims on
storage, :mod:`.torch_file` checks every claim against the storage that is there before any of it is read,
:mod:`.state_dicts` finds the weights in what people wrap around them.

Memory is bounded: the tensors of a file take no more than the file, one storage is held twice for a moment, and
everything else may take 16 MiB and two million steps in the file, which is at most 1 GiB in memory.
"""
