# SPDX-License-Identifier: AGPL-3.0-or-later
"""Generates text with a Llama on a remote machine, then fine-tunes it; needs `pip install transformers`.

    python generate_text.py [--model llama|gpt2] [--tokens N] [--provider mock] [--local]

The model is built from its configuration with random weights, so nothing is downloaded. Its output is noise, but the
program works the same with any model. For a real one, replace `make_model` by
`AutoModelForCausalLM.from_pretrained(…)`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import remora


def make_model(kind: str) -> Any:
    """Returns a tiny causal language model with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if kind == "gpt2":
        small = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=128)
        return GPT2LMHeadModel(small)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
    )


def generate(model: Any, device: torch.device, tokens: int, sample: bool) -> list[int]:
    """Continues a fixed prompt; returns the prompt and the new tokens."""
    torch.manual_seed(1)
    prompt = torch.arange(10, 18, device=device).unsqueeze(0)
    result = model.eval().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        do_sample=sample,
        pad_token_id=0,
        eos_token_id=None,
    )
    numbers: list[int] = result[0].tolist()
    return numbers


def fine_tune(model: Any, device: torch.device, steps: int) -> list[float]:
    """Trains on one batch of fixed tokens; returns the loss of each step."""
    generator = torch.Generator().manual_seed(2)
    batch = torch.randint(0, 512, (4, 32), generator=generator).to(device)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    torch.manual_seed(3)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return [each.item() for each in losses]


def run(device: torch.device, kind: str, tokens: int) -> tuple[list[int], list[int], list[float]]:
    """Returns greedy tokens, sampled tokens and losses on a device."""
    model = make_model(kind).to(device)
    begin = time.perf_counter()
    greedy = generate(model, device, tokens, sample=False)
    took = time.perf_counter() - begin
    sampled = generate(model, device, tokens, sample=True)
    losses = fine_tune(model, device, 5)
    print(f"{device}: {tokens} tokens in {took:.2f} s: {greedy[8:20]} …")
    print(f"{device}: losses {', '.join(f'{loss:.4f}' for loss in losses)}")
    return greedy, sampled, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--provider", default="mock")
    parser.add_argument("--local", action="store_true", help="also run on the local CPU")
    options = parser.parse_args()
    with remora.RemoteMachine(options.provider) as machine:
        remote = run(machine.device(), options.model, options.tokens)
    if options.local:
        local = run(torch.device("cpu"), options.model, options.tokens)
        print("tokens are equal" if remote[:2] == local[:2] else "tokens differ")


if __name__ == "__main__":
    main()
