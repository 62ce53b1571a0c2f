"""Rules of the operations with parameters: convolution, matrix product and BatchNorm."""

from __future__ import annotations

from torch import Tensor

from greg_compress.wiring.call import Call
from greg_compress.wiring.layout import Layout, Layouts, along
from greg_compress.wiring.record import LINEAR, Layer


def convolution(call: Call) -> Layouts:
    """aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups).

    Weight has shape (O, I/G, ...), transposed (I, O/G, ...). With G groups there are two cuts: equal offsets in
    every group, or whole groups. The finer is taken, the one whose units are the more; where every group reads a
    single channel (depthwise, with or without a multiplier) whole groups are the only way.
    """
    tensor, weight, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    kind = f"conv{'_transpose' if transposed else ''}{tensor.dim() - 2}d"
    inputs = call.channels(tensor, 1)
    parts = _matrix(call, weight, 0, 1)
    if inputs is None or parts is None or not call.is_vector(bias):
        call.tracer.unfollowed(kind, (tensor if transposed else call.made[0]).numel() * weight[0].numel())
        return call.opaque()
    name, rows, columns = parts
    each = (tensor.shape[1] // groups, call.made[0].shape[1] // groups)
    depthwise = bool(call.tracer.decide(lambda: groups > 1 and each[0] == 1))
    whole = bool(call.tracer.decide(lambda: depthwise or groups > max(*each, 1)))
    if whole:
        channels = _whole_groups(call, inputs, rows.view(groups, -1), columns, transposed)
    else:
        channels = _equal_offsets(call, inputs, rows.view(groups, -1), columns, transposed)
        call.tracer.result.consumers.add((name, 0 if transposed else 1))
    made = tensor if transposed else call.made[0]
    call.tracer.layer(
        Layer(
            name,
            call.tracer.module,
            kind,
            channels,
            makes=int(transposed and not whole),
            whole_groups=whole,
            follows=depthwise,
            positions=made.numel() // made.shape[1],
        )
    )
    if bias is not None and (plane := call.plane(bias)) is not None:
        call.tracer.result.labels.unite(plane, channels)
    return call.same(Layout.spread(channels, call.made[0].shape, 1))


def _whole_groups(call: Call, inputs: Tensor, rows: Tensor, columns: Tensor, transposed: bool) -> Tensor:
    """Everything that a group reads and makes is one unit.

    Args:
        rows: labels along dimension 0 of the weight, shape (groups, rows of each).
        columns: labels along dimension 1.

    Returns:
        Labels of the channels that are made.
    """
    labels = call.tracer.result.labels
    labels.unite(rows, rows[:, :1])
    labels.unite(inputs.view(len(rows), -1), rows[:, :1])
    return rows[:, :1].expand(-1, columns.numel()).flatten() if transposed else rows.flatten()


def _equal_offsets(call: Call, inputs: Tensor, rows: Tensor, columns: Tensor, transposed: bool) -> Tensor:
    """What stands at one offset in every group is one unit; arguments as above."""
    labels = call.tracer.result.labels
    labels.unite(rows, rows[:1])
    labels.unite(inputs.view(len(rows), -1), rows if transposed else columns)
    return columns.repeat(len(rows)) if transposed else rows.flatten()


def matrix_product(call: Call) -> Layouts:
    """aten.addmm(bias, input, weight) and aten.mm(input, weight), as `linear` calls them.

    The weight is a view of a parameter of shape (O, I), transposed to (I, O).
    """
    *bias, tensor, weight = call.args[:3]
    inputs = call.channels(tensor, 1)
    parts = _matrix(call, weight, 1, 0)
    if inputs is None or parts is None or not all(call.is_vector(vector) for vector in bias):
        call.tracer.unfollowed(LINEAR, call.made[0].numel() * tensor.shape[1])
        return call.opaque()
    name, out, fan = parts
    labels = call.tracer.result.labels
    labels.unite(inputs, fan)
    call.tracer.result.consumers.add((name, 1))
    positions = call.made[0].numel() // call.made[0].shape[1]
    call.tracer.layer(Layer(name, call.tracer.module, LINEAR, out, positions=positions))
    for vector in bias:
        if (plane := call.plane(vector)) is not None:
            labels.unite(plane, out)
    return call.same(Layout.spread(out, call.made[0].shape, 1))


def _matrix(call: Call, weight: Tensor, out: int, fan: int) -> tuple[str, Tensor, Tensor] | None:
    """A weight's parameter, its output labels along dimension `out` and its input labels along `fan`.

    None for a fixed filter (a buffer), a computed weight, or a parameter of any other layout.
    """
    layout = call.tracer.layout(weight)
    if layout is None or layout.origin is None or len(layout.planes) != weight.dim():
        return None
    makes, reads = along(layout.planes[0], out), along(layout.planes[1], fan)
    if makes is None or reads is None:
        return None
    return layout.origin, makes, reads


def batch_norm(call: Call) -> Layouts:
    """aten.native_batch_norm(input, weight, bias, running_mean, running_var, ...): all per channel."""
    tensor, *vectors = call.args[:5]
    inputs = call.channels(tensor, 1)
    if inputs is None or not all(call.is_vector(vector) for vector in vectors):
        return call.opaque()
    for vector in vectors:
        if (plane := call.plane(vector)) is not None:
            call.tracer.result.labels.unite(plane, inputs)
    statistics: Layouts = [Layout.spread(inputs, made.shape, 0) if made.numel() else None for made in call.made[1:]]
    return [call.tracer.layout(tensor), *statistics]


def layer_norm(call: Call) -> Layouts:
    """aten.native_layer_norm(input, shape, weight, bias, eps) over the last dimension.

    Mean and variance are of all channels: without some of them another network remains, which fine-tuning adapts,
    and the self-check leaves the removed ones out of them too (:mod:`greg_compress.surgery.masking`).
    """
    tensor, shape, *vectors = call.args[:4]
    inputs = call.channels(tensor, tensor.dim() - 1)
    return _normalized(call, inputs if len(shape) == 1 else None, vectors)


def group_norm(call: Call) -> Layouts:
    """aten.native_group_norm(input, weight, bias, N, C, HxW, groups, eps): loses whole normalisation groups.

    A single group is a normalisation over all channels, like that of :func:`layer_norm`.
    """
    tensor, *vectors = call.args[:3]
    inputs, groups = call.channels(tensor, 1), call.args[6]
    made = _normalized(call, inputs, vectors)
    if inputs is not None and call.tracer.decide(lambda: groups > 1):
        parts = inputs.view(groups, -1)
        call.tracer.result.labels.unite(parts, parts[:, :1])
    return made


def _normalized(call: Call, inputs: Tensor | None, vectors: list[Tensor | None]) -> Layouts:
    """A module without scale and shift has no tensor that says how many channels it normalises."""
    planes = [call.plane(vector) for vector in vectors if vector is not None]
    if inputs is None or not planes or any(plane is None for plane in planes):
        return call.opaque()
    for plane in planes:
        assert plane is not None
        call.tracer.result.labels.unite(plane, inputs)
    return [call.tracer.layout(call.args[0]), None, None]
