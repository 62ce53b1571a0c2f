"""The growing penalties GReg-1 and GReg-2 (Wang et al., ICLR 2021, sections 3.2 and 3.3, Algorithm 1).

    lambda_j <- lambda_j + delta   every K_u iterations                                      (equation 2)

After backward and before the optimizer's step, grad += lambda_j * w (the gradient of 0.5 * lambda_j * w^2,
on top of the optimizer's weight decay) for the filters of unit j: dimension 0 (1, where transposed) of its
sources and of the depthwise convolutions that follow them. Under gradient clipping or accumulation it comes
once per step, after both. SGD only: adaptive optimizers divide lambda away. The learning rate stays constant:
a decaying one takes the force out of lambda.

:mod:`.presets` holds the settings (no torch), :mod:`.schedule` turns them into counts, :mod:`.targets` finds
what is pulled at, :mod:`.growing` is the state machine, :mod:`.fused` pulls and measures, all layers at once. Not
here: scores (`criteria`), loops, files, printing.

Where the paper's text and its authors' code (github.com/MingSun-Tse/Regularization-Pruning) differ, what greg does:

- delta of GReg-2. Text: 1e-5 up to tau = 1 (Table 8; read literally 1,000,000 iterations on CIFAR). Code: 1e-5 until it
  picks, 1e-4 afterwards. Here: the code's, as `--pick-delta` and `--delta`.
- When GReg-2 picks. Text: at the first update that finds lambda > tau'. Code: lambda >= tau', summed in float32. Here:
  the text's, on integer counts; 1,001 updates both ways.
- lambda of the units that GReg-2 keeps. Text: -gamma, gamma being the weight decay. Code: -1e-4 whatever gamma is.
  Here: the text's; `--recover -1e-4` and preset `repo-cifar` are the code's.
- lambda of the units that GReg-1 keeps. Text: -gamma by the listing, which merges both methods, none by the prose.
  Code: none. Here: none.
- When pushing ends. Text: at lambda > tau. Code: also once kept filters are 1000 times larger than picked ones (moving
  average; GReg-1 waits for all layers, GReg-2 stops layer by layer). Here: the text's; `--stop-ratio 1000` and preset
  `repo-cifar` end it early, once every group has separated. What an update measures the next one reads (to look at
  once would wait for the device): it ends K_u iterations later than in the code, without growing once more.
- K_s and the batch size on CIFAR. Text: 5,000 and 256 (Tables 8 and 5). Code: 10,000 and 128 (for ResNet-56). Here:
  presets `paper-cifar` and `repo-cifar`.
- What is cut. Text: a final L1 sort (line 15). Code: the picks. Here: the picks; `prune` says how many it would change.
- Units removed from n. Text: the ratio. Code: min(ceil(r n), n - 1) on floats (0.07 * 100 is 8). Here: on decimals (7).
- Score. Text: L1 norm. Code: mean absolute value, unstable sort. Here: mean absolute value, stable sort.
- Single weights (`--unstructured`): see :mod:`greg_compress.unstructured`.
- What is penalised. Both: the weights of filters. Here: the same; preset `quick` takes the unit's bias and BatchNorm's
  scale and shift as well (`--penalize unit`).

Preset `quick`, the default, is neither's: learning rate 3e-2, the whole unit, tau = 5 within 3,000 iterations,
growing a tenth of the way to tau' = tau / 100 (the paper's proportions). BatchNorm makes a filter scale-free, so
that shrinking its weights alone hardly changes its output; with the whole unit penalised the later cut is almost
without loss, also on short schedules.
"""
