"""Which tests belong to which suite; shapes are checked at run time.

`make test` runs the quick suite: what a change is likely to break, without system packages. `make test-all` adds the
long one, and then those that need the machine for themselves. Without `--suite`, pytest runs whatever it is given.
"""

import os
from collections.abc import Set
from pathlib import Path

import pytest
from jaxtyping import install_import_hook
from xdist.scheduler import LoadScopeScheduling

install_import_hook("app.cam", "beartype.beartype")

_TESTS = Path(__file__).parent
# Beginnings of the tests' names, of which the longest counts. These measure how a service bears a load or an attack: no
# other work may run beside.
ALONE = (
    "api/test_hanging_up.py",
    "api/test_kserve_load.py",
    "api/test_liveness.py",
    "api/test_under_load.py",
    "attacks/",
    # Four requests a second are light only for a whole machine: on half of one they pile up behind the large ones.
    "attacks/test_faults.py::test_want_of_memory_is_answered_and_passes",
)
# Attacks and faults by which no time is measured: what they await comes in the end, on a busy machine too.
UNTIMED = (
    "attacks/test_faults.py",
    "attacks/test_operators_files.py",
    "attacks/test_second_derivatives.py",
    "attacks/test_signals.py",
    "attacks/test_slow_readers.py",
    "attacks/test_taken_port.py::test_a_port_that_another_takes_meanwhile_ends_the_process_in_a_line",
)
# These need a browser, a cluster, containers, system packages, many processes or long calculations.
LONG = (
    "api/test_body_limit.py",
    "api/test_draining.py",
    "api/test_examples.py",
    "api/test_layers_and_smoothing.py::test_the_header_of_eight_sampled_layers_stays_within_4_kib",
    "api/test_many_targets.py",
    "api/test_observability.py::test_people_get_a_line_of_text",
    "api/test_open_inference.py::test_a_network_that_is_still_loading_is_503_and_the_service_alive",
    "api/test_progress.py",
    "api/test_real_clients.py",
    "api/test_slow_bodies.py",
    "api/test_start.py",
    "api/test_worker_death.py",
    "cam/test_ablationcam_parity.py::test_ablationcam_of_a_photograph_equals_the_peers",
    "cam/test_acceleration.py::test_on_photographs_every_gradient_method_stays_within_a_thousandth",
    "cam/test_acceleration.py::test_torch_compile_agrees_or_is_not_used",
    "cam/test_catalogue_games.py::test_scorecam_is_finite_and_lies_on_the_grid",
    "cam/test_engine.py::test_explanations_of_a_batch_equal_those_of_its_images_one_by_one[layer2]",
    "cam/test_engine.py::test_explanations_of_a_batch_equal_those_of_its_images_one_by_one[layer4.1.conv2]",
    "cam/test_layers_and_smoothing.py::test_smoothing_is_the_mean_over_views_mirrored_back[layer4-flip-scale]",
    "cam/test_own_networks.py::test_metrics_equal_those_of_the_networks_own_probabilities[findings]",
    "cam/test_own_networks.py::test_metrics_equal_those_of_the_networks_own_probabilities[malignant]",
    "cam/test_own_networks.py::test_values_of_the_game_equal_enumeration_and_integration[findings",
    "cam/test_own_networks.py::test_values_of_the_game_equal_enumeration_and_integration[malignant",
    "cam/test_parity.py::test_attributions_of_photographs_equal_the_peers",
    "cam/test_parity.py::test_every_network_of_the_paper_equals_the_peer_at_both_layers[swin_tiny_patch4_window7_224]",
    "cam/test_scorecam_parity.py::test_scorecam_of_a_batch_equals_that_of_its_images_one_by_one_figures_included",
    "cam/test_trunks.py::test_openvino_is_right_again_after_a_batch_that_did_not_fit_the_memory",
    "cluster/",
    "deploy/test_monitoring.py",
    "evaluation/test_boxes.py::test_a_run_with_boxes_finds_what_a_plain_loop_over_the_pixels_finds",
    "evaluation/test_evaluate.py::test_methods_without_meaning_are_left_out_and_said",
    "evaluation/test_evaluate.py::test_rows",
    "evaluation/test_ray.py",
    "evaluation/test_ray_cluster.py",
    "evaluation/test_resuming.py",
    "service_models/test_loading.py::test_networks_with_auxiliary_heads_answer_with_logits_alone",
    "test_check.py::test_one_of_several_parallel_branches_is_warned_of",
    "web/",
    *UNTIMED,
)
# Of the catalogue's networks the quick suite takes one for each way of being built: these, without what the long
# suite finds out about every other one.
FAMILIES = {"tf_efficientnet_lite0", "resnet18", "swin_tiny_patch4_window7_224"}
# Beginnings of the names of files whose tests share what is dear to make: one process of tests runs all of them.
_SHARING = ("api/", "cluster/", "service_models/test_transformers", "web/")
# But these share nothing with the others.
_APART = ("api/test_draining.py", "cluster/test_replicas.py")
# What takes longest begins first, so that several processes end together.
_FIRST = (
    "cluster/",
    "cam/test_catalogue_games.py",
    "web/",
    "evaluation/test_resuming.py",
    "evaluation/test_ray.py",
    "cluster/test_replicas.py",
    "attacks/test_faults.py",
    "evaluation/",
    "api/",
    "cam/test_parity.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--suite`."""
    parser.addoption("--suite", choices=("quick", "long", "alone"), help="see tests/conftest.py; default all tests")


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several processes of tests one processor, and keeps the order of the tests."""
    config.option.loadscopereorder = False
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if config.getoption("numprocesses", None) and not is_worker:
        return  # it only hands out the tests, and what follows takes seconds
    # Imported by what the hook checks, all libraries would be compiled anew.
    import torch

    import service_models  # noqa: F401

    if is_worker:
        torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out what belongs to another suite as a whole, before it is imported."""
    suite, name = config.getoption("--suite"), _name(collection_path)
    if suite == "quick" and name.startswith(LONG + ALONE):
        return True
    if suite == "alone" and not any(name.startswith(alone) or alone.startswith(name) for alone in ("./", *ALONE)):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of the suite, in the order in which they begin."""
    suite = config.getoption("--suite")
    items.sort(key=_turn)
    if suite is None:
        return
    from service_models import CATALOGUE

    others = CATALOGUE.keys() - FAMILIES
    kept: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        kept[_suite(item, others) == suite].append(item)
    config.hook.pytest_deselected(items=kept[False])
    items[:] = kept[True]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Has one process run all tests of a file, or of files whose tests share something."""
    return _ByPlace(config, log)


class _ByPlace(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0].removeprefix("tests/")
        sharing = [beginning for beginning in _SHARING if path.startswith(beginning) and path not in _APART]
        return sharing[0] if sharing else path


def _turn(item: pytest.Item) -> int:
    """When a test begins, among the others."""
    found = [first for first in _FIRST if _name(item.path).startswith(first)]
    return _FIRST.index(max(found, key=len)) if found else len(_FIRST)


def _suite(item: pytest.Item, others: Set[str]) -> str:
    """The suite of a test; those of `others`, networks of the catalogue, are in the long one."""
    name = f"{_name(item.path)}::{item.name}"
    if _longest(ALONE, name) > _longest(LONG, name):
        return "alone"
    arguments = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    is_other = any(isinstance(argument, str) and argument in others for argument in arguments)
    return "long" if is_other or name.startswith(LONG) else "quick"


def _longest(beginnings: tuple[str, ...], name: str) -> int:
    """The length of the longest of them that the name begins with; 0 where it begins with none."""
    return max((len(beginning) for beginning in beginnings if name.startswith(beginning)), default=0)


def _name(path: Path) -> str:
    """Of a file of tests, or of a folder with a slash at its end."""
    return path.relative_to(_TESTS).as_posix() + "/" * path.is_dir()
