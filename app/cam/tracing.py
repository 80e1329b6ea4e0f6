"""Cuts the graph of a network in two at a module's output, with `torch.fx`."""

import inspect
import linecache
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torch.fx.graph_module import _loader

from service_models.layer_paths import RELU, RELU_FUNCTIONS, module_of


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


def _unchanged(x: Any) -> Any:  # noqa: ANN401 - whatever a module hands on
    """Stands for a module that returns what it was given, such as an empty `nn.Sequential`."""
    return x.clone() if isinstance(x, Tensor) else x  # a head may change its input in place


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
        if isinstance(output, fx.Proxy) and any(output is given for given in (*args, *kwargs.values())):
            # Else what the module returns could not be told from what it was given, which others may use too.
            output = self.create_proxy("call_function", _unchanged, (output,), {})
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
class TracedNetwork:
    """The graph of a whole network, which can be cut at any of its modules.

    Attributes:
        model: the network.
        graph: of it.
        outputs: what the calls of each module returned, by its path.
        from_images: nodes that hold tensors with a row for each image.
    """

    model: nn.Module
    graph: fx.Graph
    outputs: dict[str, list[object]]
    from_images: set[fx.Node]

    def cut(self, layer: str) -> GraphCut:
        """Cuts the network at the last output of a module, or at the ReLU of it.

        Args:
            layer: its path, `MODULE+relu` for the ReLU.

        Returns:
            Both halves; they share the network's parameters.

        Raises:
            Untraceable: the module is hidden in a leaf, or the logits do not depend on it.
        """
        graph, cut = self.graph, _find_cut(self, layer)
        images_in = next(node for node in graph.nodes if node.op == "placeholder")
        left = (cut.target, *cut.carry)
        trunk = _extract(graph, self.model, _needed_for(left, lambda _node: False), [images_in], left)
        head = _extract(graph, self.model, cut.needed, list(left), cut.logits)
        return GraphCut(trunk, head, cut.calls)


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
    needed: Collection[fx.Node]
    logits: fx.Node
    calls: int


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
    traced = trace(model, images)
    one, other = _find_cut(traced, first), _find_cut(traced, second)
    given = [one.target, *one.carry]
    result = (other.target, *other.carry)
    needed = _needed_for(result, given.__contains__)
    if any(node.op == "placeholder" for node in needed):
        raise Untraceable(f"'{second}' needs more of the images than is left at '{first}'")
    return _extract(traced.graph, model, needed, given, result)


def trace(model: nn.Module, images: Tensor) -> TracedNetwork:
    """Follows a network symbolically, and runs the graph once.

    Args:
        model: frozen network in eval mode.
        images: an example batch, (batch, channel, height, width).

    Raises:
        Untraceable: the network's Python cannot be followed symbolically.
    """
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
    return TracedNetwork(model, graph, tracer.outputs, _computed_from_images(graph, recorder.tensors))


def _find_cut(traced: TracedNetwork, layer: str) -> _Cut:
    outputs = traced.outputs.get(module_of(layer), [])
    if not outputs or not isinstance(outputs[-1], fx.Proxy):
        raise Untraceable(f"the graph does not show the output of '{module_of(layer)}'")
    target = outputs[-1].node
    if layer.endswith(RELU):
        target = _relu_of(target, traced.model)
    logits = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    if not isinstance(logits, fx.Node):
        raise Untraceable("the network returns more than one tensor")
    after = _descendants(traced.graph, target)
    if logits not in after:
        raise Untraceable(f"the logits do not depend on '{layer}'")
    needed, carry = _head_nodes(logits, target, after, traced.from_images)
    return _Cut(target, carry, needed, logits, len(outputs))


def _relu_of(node: fx.Node, model: nn.Module) -> fx.Node:
    users = list(node.users)
    for user in users:
        if user.target is _unchanged:
            users += user.users
    for user in sorted(users):  # in the order in which they run
        is_relu = (
            (user.op == "call_function" and user.target in RELU_FUNCTIONS)
            or (user.op == "call_method" and getattr(Tensor, str(user.target), None) in RELU_FUNCTIONS)
            or (user.op == "call_module" and isinstance(model.get_submodule(str(user.target)), nn.ReLU))
        )
        if is_relu:
            return user
    raise Untraceable(f"the graph does not show a ReLU of '{node.name}'")


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
) -> tuple[Collection[fx.Node], list[fx.Node]]:
    """What the head computes, and what it must be handed.

    Numbers that depend on the batch size (a traced Swin has many) and tensors made of parameters alone are
    computed anew in the head, so that it runs on any number of rows; only tensors with a row for each image
    are carried.
    """

    def is_carried(node: fx.Node) -> bool:
        return node in from_images and node not in after and node.target is not _unchanged

    needed = _needed_for([logits], lambda node: node is target or is_carried(node))
    inputs = dict.fromkeys(node for later in needed for node in later.all_input_nodes)
    return needed, [node for node in inputs if is_carried(node)]


def _needed_for(results: Iterable[fx.Node], is_given: Callable[[fx.Node], bool]) -> dict[fx.Node, None]:
    """The nodes that must run for some results, where others are given; a dictionary, to keep their order."""
    found: dict[fx.Node, None] = {}
    stack = list(results)
    while stack:
        node = stack.pop()
        if node not in found and not is_given(node):
            found[node] = None
            stack.extend(node.all_input_nodes)
    return found


def _extract(
    graph: fx.Graph,
    model: nn.Module,
    needed: Collection[fx.Node],
    inputs: list[fx.Node],
    result: fx.Node | tuple[fx.Node, ...],
) -> fx.GraphModule:
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in inputs}
    results = (result,) if isinstance(result, fx.Node) else result
    for node in graph.nodes:
        if node in needed and node not in copies:
            is_marker = node.target is _unchanged and node not in results
            copies[node] = copies[node.all_input_nodes[0]] if is_marker else part.node_copy(node, copies.__getitem__)
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
