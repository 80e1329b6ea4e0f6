"""Cuts the graph of a network in two at a module's output, with `torch.fx`."""

import inspect
import linecache
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torch.fx.graph_module import _loader


class Untraceable(Exception):
    """The network cannot be cut as a graph; hooks must do."""


@dataclass(frozen=True, slots=True)
class GraphCut:
    """The two halves of a network.

    Attributes:
        trunk: maps the images to (layer output, *carry), where the carry is all that the head needs besides.
        head: maps (layer output, *carry) to the logits.
        calls: how often the module ran in one forward pass; the cut is at its last call.
    """

    trunk: fx.GraphModule
    head: fx.GraphModule
    calls: int


class _LayerTracer(fx.Tracer):
    """Traces as timm's and torchvision's feature extractors do and notes what each module call returned."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._leaves = tuple(get_notrace_modules())
        self.outputs: dict[str, list[object]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self._leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - fx's types
        output = super().call_module(m, forward, args, kwargs)
        self.outputs.setdefault(self.path_of_module(m), []).append(output)
        return output


class _Recorder(fx.Interpreter):
    """Runs a graph on two images and notes which nodes hold a tensor computed from the images."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.tensors: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the node holds
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.tensors.add(n)
        elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            # A list that crossed the cut would need a carry of its own.
            self.tensors.add(n)
        return value


@dataclass(frozen=True, slots=True)
class _Traced:
    """The graph of a whole network.

    Attributes:
        graph: of the network.
        outputs: what the calls of each module returned, by its path.
        from_images: nodes that hold tensors with a row for each image.
    """

    graph: fx.Graph
    outputs: dict[str, list[object]]
    from_images: set[fx.Node]


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a graph is cut.

    Attributes:
        target: the layer's last output.
        carry: what the head needs besides.
        needed: what the head computes.
        logits: the result.
        calls: how often the layer ran.
    """

    target: fx.Node
    carry: list[fx.Node]
    needed: set[fx.Node]
    logits: fx.Node
    calls: int


def cut_graph(model: nn.Module, layer: str, images: Tensor) -> GraphCut:
    """Cuts `model` at the last output of its module `layer`.

    Args:
        model: frozen network in eval mode.
        layer: path of a module inside it.
        images: an example batch, (batch, channel, height, width).

    Returns:
        Both halves; they share the network's parameters.

    Raises:
        Untraceable: the network's Python cannot be followed symbolically, or the module is hidden in a leaf.
    """
    traced = _trace(model, images)
    graph, cut = traced.graph, _find_cut(traced, layer)
    images_in = next(node for node in graph.nodes if node.op == "placeholder")
    left = (cut.target, *cut.carry)
    trunk = _extract(graph, model, _ancestors(list(left)), [images_in], left)
    head = _extract(graph, model, cut.needed, list(left), cut.logits)
    return GraphCut(trunk, head, cut.calls)


def graph_between(model: nn.Module, first: str, second: str, images: Tensor) -> fx.GraphModule:
    """The part of a network between two of its layers.

    Args:
        model: frozen network in eval mode.
        first: path of the earlier module.
        second: path of the later one.
        images: an example batch, (batch, channel, height, width).

    Returns:
        Maps what the trunk to `first` returns, (layer output, *carry), to what the trunk to `second` returns.

    Raises:
        Untraceable: what is left of the images at `first` does not suffice, or either layer cannot be cut at.
    """
    traced = _trace(model, images)
    one, other = _find_cut(traced, first), _find_cut(traced, second)
    given = [one.target, *one.carry]
    result = (other.target, *other.carry)
    needed: set[fx.Node] = set()
    stack = list(result)
    while stack:
        node = stack.pop()
        if node in needed or node in given:
            continue
        if node.op == "placeholder":
            raise Untraceable(f"'{second}' needs more of the images than is left at '{first}'")
        needed.add(node)
        stack.extend(node.all_input_nodes)
    return _extract(traced.graph, model, needed, given, result)


def _trace(model: nn.Module, images: Tensor) -> _Traced:
    tracer = _LayerTracer()
    try:
        # A parameter beyond the images is fixed at its default: a symbolic one would never be None.
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
        fixed = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        graph = tracer.trace(model, concrete_args=fixed or None)
        recorder = _Recorder(_module_of(graph, model))
        with torch.no_grad():
            recorder.run(images, *fixed.values())
    except Exception as error:  # tracing runs the network's own Python: anything may come out
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    return _Traced(graph, tracer.outputs, _computed_from_images(graph, recorder.tensors))


def _find_cut(traced: _Traced, layer: str) -> _Cut:
    outputs = traced.outputs.get(layer, [])
    if not outputs or not isinstance(outputs[-1], fx.Proxy):
        raise Untraceable(f"the graph does not show the output of '{layer}'")
    target = outputs[-1].node
    logits = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    if not isinstance(logits, fx.Node):
        raise Untraceable("the network returns more than one tensor")
    after = _descendants(traced.graph, target)
    if logits not in after:
        raise Untraceable(f"the logits do not depend on '{layer}'")
    needed, carry = _head_nodes(logits, target, after, traced.from_images)
    return _Cut(target, carry, needed, logits, len(outputs))


def _computed_from_images(graph: fx.Graph, tensors: set[fx.Node]) -> set[fx.Node]:
    """Tensors whose values, not only whose shapes, come from the images: the ones with a row for each image."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node in tensors and (node.op == "placeholder" or any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _descendants(graph: fx.Graph, target: fx.Node) -> set[fx.Node]:
    found = {target}
    for node in graph.nodes:
        if any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def _head_nodes(
    logits: fx.Node, target: fx.Node, after: set[fx.Node], from_images: set[fx.Node]
) -> tuple[set[fx.Node], list[fx.Node]]:
    """What the head computes, and what it must be handed.

    Numbers that depend on the batch size (a traced Swin has many) and tensors made of parameters alone are
    computed anew in the head, so that it runs on any number of rows; only tensors with a row for each image
    are carried.
    """
    needed: set[fx.Node] = set()
    carry: dict[fx.Node, None] = {}
    stack = [logits]
    while stack:
        node = stack.pop()
        if node in needed or node is target or node in carry:
            continue
        if node in from_images and node not in after:
            carry[node] = None
            continue
        needed.add(node)
        stack.extend(node.all_input_nodes)
    return needed, list(carry)


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _extract(
    graph: fx.Graph,
    model: nn.Module,
    needed: set[fx.Node],
    inputs: list[fx.Node],
    result: fx.Node | tuple[fx.Node, ...],
) -> fx.GraphModule:
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in inputs}
    for node in graph.nodes:
        if node in needed and node not in copies:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[result] if isinstance(result, fx.Node) else tuple(copies[node] for node in result))
    part.lint()
    return _module_of(part, model)


def _module_of(graph: fx.Graph, model: nn.Module) -> fx.GraphModule:
    """A module that runs a graph; its source is forgotten, which fx would keep for as long as the process lives."""
    module = fx.GraphModule(model, graph)
    name = type(module).forward.__code__.co_filename
    _loader.eval_cache.pop(name, None)
    linecache.cache.pop(name, None)
    return module
