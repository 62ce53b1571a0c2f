"""The growing penalties GReg-1 and GReg-2 (Wang et al., ICLR 2021, sections 3.2 and 3.3, Algorithm 1).

    lambda_j <- lambda_j + delta   every K_u iterations                                      (equation 2)

After backward and before the optimizer's step, grad += lambda_j * w (the gradient of 0.5 * lambda_j * w^2,
on top of the optimizer's weight decay) for the filters of unit j: dimension 0 (1, where transposed) of its
sources and of the depthwise convolutions that follow them. Under gradient clipping or accumulation it comes
once per step, after both. SGD only: adaptive optimizers divide lambda away. The learning rate stays constant:
a decaying one takes the force out of lambda.

:mod:`.presets` holds the settings (no torch), :mod:`.schedule` turns them into counts, :mod:`.targets` finds
what is pulled at, :mod:`.growing` is the state machine. Not here: scores (`criteria`), loops, files, printing.

Where the paper's text, its authors' code (github.com/MingSun-Tse/Regularization-Pruning) and greg differ:

| | the text | the authors' code | greg |
|---|---|---|---|
| delta of GReg-2 | 1e-5 up to tau = 1 (Table 8, read literally: 1,000,000 iterations on CIFAR) | 1e-5 while growing, \
1e-4 while pushing | the code's: `--pick-delta`, `--delta` |
| growing ends | at the first update that finds lambda > tau' | at the first that finds lambda >= tau', summed \
in float32 | the text's, on integer counts: 1,001 updates in both |
| units kept by GReg-2 | lambda = -gamma, gamma being the weight decay | lambda = -1e-4 always | the text's; \
`--recover -1e-4` and preset `repo-cifar` are the code's |
| units kept by GReg-1 | lambda = -gamma, read literally (the listing merges both methods); the prose: none | none | \
none |
| pushing ends | at lambda > tau | also once kept filters are 1000 times larger than picked ones (moving average; \
GReg-1 waits for every layer, GReg-2 stops layer by layer) | the text's; `--stop-ratio 1000` and preset `repo-cifar` \
wait for every group |
| stabilizing (CIFAR) | K_s = 5,000 (Table 8) | 10,000 | presets `paper-cifar` and `repo-cifar` |
| batch size (CIFAR) | 256 (Table 5) | 128 for ResNet-56 | presets `paper-cifar` and `repo-cifar` |
| what is cut | a final L1 sort (line 15) | the picks | the picks; `prune` says by how many an L1 sort would differ |
| units removed from n | - | min(ceil(r n), n - 1) on floats (0.07 * 100 is 8) | the same on decimals (7) |
| score | L1 norm | mean absolute value, unstable sort | mean absolute value, stable sort |
| what is penalised | weights of filters | weights of filters | preset `quick`: bias and BatchNorm too \
(`--penalize unit`); the other presets: weights |

Preset `quick`, the default, is neither's: learning rate 1e-2, the whole unit, tau = 5 within 3,000 iterations,
growing a tenth of the way to tau' = tau / 100 (the paper's proportions). BatchNorm makes a filter scale-free, so
that shrinking its weights alone hardly changes its output; with the whole unit penalised the later cut is almost
without loss, also on short schedules.
"""
