"""Has a cluster of ray with nodes that come and go, by its standard input: see ray_cluster.py."""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


def main() -> None:
    """Say where it is, then do as told: ``add`` or ``kill`` a node, and say it when it is done."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    print(cluster.address, flush=True)
    nodes = []
    for line in sys.stdin:
        match line.strip():
            case "add":
                nodes.append(cluster.add_node(**NODE))
            case "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
        print(line.strip(), flush=True)


if __name__ == "__main__":
    main()
