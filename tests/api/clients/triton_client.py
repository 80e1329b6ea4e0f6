"""Asks the service with Triton's own client, and prints what that made of the answers as JSON.

Run by the interpreter of `.venv-clients`: python triton_client.py <host:port> <network> <picture>
"""

import json
import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException


def main(address: str, network: str, picture: str) -> None:
    client = InferenceServerClient(address)
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([Path(picture).read_bytes()], dtype=object))
    seen = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(network), client.is_model_ready(network, "1")],
        "unknown_ready": [client.is_model_ready("vgg99"), client.is_model_ready(network, "2")],
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(network),
        "version": client.get_model_metadata(network, "1"),
    }
    try:
        client.infer(network, [tensor])
    except InferenceServerException as error:
        seen["infer"] = [error.status(), error.message()]
    client.close()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
