"""A Ray cluster of two nodes on this machine, in a process of its own.

`python -m tests.evaluation.cluster FOLDER` writes its address and the process of each node's raylet as JSON, and then
does what it reads: `remove` takes the second node away as a loss of current would, and the end of the input ends all.
"""

import json
import sys

from ray.cluster_utils import Cluster


def main(folder: str) -> None:
    # Processors are left free: with none, a lost node's work waits for good.
    node = {"num_cpus": 2, "include_dashboard": False, "temp_dir": f"{folder}/ray"}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        second = cluster.add_node(num_cpus=2)
        nodes = (cluster.head_node, second)
        raylets = [found.all_processes["raylet"][0].process.pid for found in nodes]
        print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
        for line in sys.stdin:
            assert line.strip() == "remove"
            cluster.remove_node(second, allow_graceful=False)
            print("removed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
