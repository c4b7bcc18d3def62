# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Java programs for language models, compared with transformers on the same checkpoints of random weights."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

CLASS_PATH = os.environ.get("REMORA_EXAMPLES_CLASSPATH", "")
PACKAGE = "io.remora.examples.language"
PROMPT = "Grüße an alle: the quick brown 狐 jumps over 🦊"
TEXT = (
    "The machine computes; the program reads what it wants to know. Nothing else comes back.\n" * 40
)

pytestmark = pytest.mark.skipif(
    not CLASS_PATH, reason="no Java examples: set REMORA_EXAMPLES_CLASSPATH as .ci/python does"
)

SIZES = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Larger than a real initialization: otherwise many tokens would have about the same probability.
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# The fast tier has a Llama 3 in several shards, and a SmolLM2 (tied embeddings, a plain rotary embedding).
KINDS = {
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "smollm2": (
        "Llama",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "tie_word_embeddings": True,
        },
    ),
    "linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"use_sliding_window": False, "tie_word_embeddings": True}),
}


def save_model(kind: str, folder: Path) -> Any:
    """Saves a model of random weights in several shards, and a tokenizer with one token per byte and some more."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    name, differences = KINDS[kind]
    config = getattr(transformers, name + "Config")(**SIZES, **differences)
    config._attn_implementation = "sdpa"
    model = getattr(transformers, name + "ForCausalLM")(config).eval()
    if kind == "biased":  # biases are initialized with zeros
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(
            vocab_size=SIZES["vocab_size"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"],
            show_progress=False,
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return model, tokenizer


def run(program: str, *arguments: str, stdin: str = "", mode: str = "in-jvm") -> str:
    """Returns a Java program's standard output; its machine runs in a thread or in another process."""
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java" if "JAVA_HOME" in os.environ else "java"
    result = subprocess.run(
        [
            str(java),
            "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2",
            f"-Dremora.provider.mock.mode={mode}",
            "-cp",
            CLASS_PATH,
            f"{PACKAGE}.{program}",
            "--compute-threads=1",
            *arguments,
        ],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, marks=pytest.mark.fast if kind in ("llama3", "smollm2") else pytest.mark.full
        )
        for kind in KINDS
    ],
)
def test_generate_gives_the_tokens_of_transformers(kind, tmp_path):
    model, tokenizer = save_model(kind, tmp_path)
    prompt = torch.tensor([tokenizer.encode(PROMPT).ids])
    generated = model.generate(
        prompt,
        max_new_tokens=40,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = generated.sequences[0, prompt.shape[1] :].tolist()
    # The text must end with a token that occurs late, and only then for the first time.
    end = max(range(len(tokens)), key=lambda i: i if tokens[i] not in tokens[:i] else -1)
    model.generation_config.eos_token_id = [0, tokens[end]]
    model.generation_config.save_pretrained(tmp_path)
    expected = tokens[: end + 1]

    output = run(
        "Generate",
        f"--model={tmp_path}",
        "--prompt=-",
        "--tokens",
        stdin=PROMPT,
        mode="child-jvm" if kind == "llama3" else "in-jvm",
    )

    lines = [line.split() for line in output.splitlines()]
    difference = 0.0
    for step, (token, logarithm) in enumerate(lines[: len(expected)]):
        if int(token) != expected[step]:
            break
        logarithms = torch.log_softmax(generated.logits[step][0], -1)
        difference = max(difference, abs(float(logarithm) - logarithms[int(token)].item()))
    assert [int(token) for token, _ in lines] == expected, f"largest difference: {difference:.2g}"
    assert difference < 1e-4


@pytest.mark.fast
def test_fine_tune_gives_the_losses_of_transformers(tmp_path):
    steps, batch, accumulate, block, peak, warm_up = 20, 2, 2, 16, 1e-3, 5
    model, tokenizer = save_model("smollm2", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    output = run(
        "FineTune",
        f"--model={tmp_path / 'model'}",
        f"--text={tmp_path / 'text.txt'}",
        f"--output={tmp_path / 'trained'}",
        f"--steps={steps}",
        f"--batch={batch}",
        f"--accumulate={accumulate}",
        f"--block={block}",
        f"--lr={peak}",
        f"--warm-up={warm_up}",
        "--seed=3",
        "--save-every=0",
    )

    losses = [float(line.split()[3]) for line in output.splitlines() if line.startswith("step ")]
    tokens = torch.tensor(tokenizer.encode(TEXT).ids)
    blocks = tokens[: len(tokens) // block * block].view(-1, block)
    orders = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=peak)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / warm_up
            if step < warm_up
            else 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))
        ),
    )
    per_epoch = len(blocks) // batch
    expected = []
    for step in range(steps):
        loss = 0.0
        for index in range(step * accumulate, (step + 1) * accumulate):
            if index % per_epoch == 0:
                order = torch.randperm(len(blocks), generator=orders)
            chosen = blocks[order[index % per_epoch * batch :][:batch]]
            share = model(input_ids=chosen, labels=chosen).loss / accumulate
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        expected.append(loss)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0]

    import transformers

    trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
