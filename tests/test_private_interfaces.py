"""What the code uses of libraries without their promise: fails with what to look at when a release changes it."""

from torch import fx, nn
from torch.fx import graph_module
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def test_fx_keeps_the_source_of_a_module_where_tracing_deletes_it() -> None:
    module = fx.GraphModule(nn.Module(), _identity())
    name = type(module).forward.__code__.co_filename
    cache = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    assert name in cache, (
        "torch.fx keeps the source of its modules elsewhere than in graph_module._loader.eval_cache: "
        "app/cam/tracing.py deletes it there, or memory grows with every layer that is split"
    )


def test_uvicorn_still_stops_the_timer_of_an_idle_connection_by_the_method_that_our_protocol_calls() -> None:
    assert callable(getattr(HttpToolsProtocol, "_unset_keepalive_if_required", None)), (
        "uvicorn's HttpToolsProtocol.data_received does not call _unset_keepalive_if_required any more: "
        "app/connections.py overrides data_received and must do what it does now"
    )


def _identity() -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    return graph
