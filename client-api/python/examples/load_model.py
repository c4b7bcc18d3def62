# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generates text with a language model that the machine's node loads; needs `pip install transformers`.

    python load_model.py [OWNER/NAME | FOLDER] [--tokens N] [--provider mock]

The node downloads a repository from the hub; the program gets only its configuration. A folder must be one on the
node's disk that the node allows. With neither, the program makes and saves a small model with random weights, lets a
node on this computer load it, and compares its tokens with the local CPU's.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import torch
from generate_text import generate, make_model

import remora


def linked_model(config: Any, weights: dict[str, torch.Tensor], device: torch.device) -> Any:
    """Returns a causal language model on the memory of these weights: nothing is copied."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    # Modules compute some tensors when they are made, such as the angles of rotary embeddings. No file contains
    # these.
    with torch.device(device):
        for name, module in model.named_modules():
            if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
                model.set_submodule(name, type(module)(config))
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"the model's files have no {', '.join(left)}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--provider", default="mock")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        local = None
        if options.source is None:
            local = make_model("llama")
            local.save_pretrained(folder, max_shard_size="100KB")
            # Allows the node of a machine on this computer to load the folder; a node elsewhere has this in its
            # configuration.
            allowed = f"-Dremora.node.models.directories.0={folder}"
            given = os.environ.get("REMORA_GATEWAY_JVM_OPTIONS", "")
            os.environ["REMORA_GATEWAY_JVM_OPTIONS"] = f"{given} {allowed}"
        source = options.source or folder
        with remora.RemoteMachine(options.provider) as machine:
            run(machine, source, options.tokens, local)


def run(machine: remora.RemoteMachine, source: str, tokens: int, local: Any) -> None:
    """Loads the weights, links a model to them and generates; compares with a local model if there is one."""
    from transformers import AutoConfig

    device = machine.device()
    weights = machine.load_state_dicts(source)[""]
    model = linked_model(AutoConfig.from_pretrained(source), weights, device)
    remote = generate(model, device, tokens, sample=False)
    print(f"{device}: {len(weights)} tensors loaded; tokens {remote[8:20]} …")
    uploaded = machine.stats()["uploaded_bytes"]
    print(f"{uploaded:.0f} bytes were sent from the program to the machine")
    if local is not None:
        same = remote == generate(local, torch.device("cpu"), tokens, sample=False)
        print("tokens are equal" if same else "tokens differ")


if __name__ == "__main__":
    main()
