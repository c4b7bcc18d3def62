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
        timeout=300,
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


def losses_of(output: str) -> list[float]:
    return [float(line.split()[3]) for line in output.splitlines() if line.startswith("step ")]


def train(
    model: Any,
    tokenizer: Any,
    orders: torch.Generator,
    *,
    steps: int,
    batch: int,
    accumulate: int,
    block: int,
    lr: float,
    warm_up: int,
) -> list[float]:
    """Trains as FineTune does, and returns the losses."""
    tokens = torch.tensor(tokenizer.encode(TEXT).ids)
    blocks = tokens[: len(tokens) // block * block].view(-1, block)
    trained = [each for each in model.train().parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            step / warm_up
            if step < warm_up
            else 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))
        ),
    )
    per_epoch = len(blocks) // batch
    losses = []
    for step in range(steps):
        loss = 0.0
        for index in range(step * accumulate, (step + 1) * accumulate):
            if index % per_epoch == 0:
                order = torch.randperm(len(blocks), generator=orders)
            chosen = blocks[order[index % per_epoch * batch :][:batch]]
            share = model(input_ids=chosen, labels=chosen).loss / accumulate
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


@pytest.mark.fast
def test_fine_tune_gives_the_losses_of_transformers(tmp_path):
    how = {"steps": 20, "batch": 2, "accumulate": 2, "block": 16, "lr": 1e-3, "warm_up": 5}
    model, tokenizer = save_model("smollm2", tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    output = run(
        "FineTune",
        f"--model={tmp_path / 'model'}",
        f"--text={tmp_path / 'text.txt'}",
        f"--output={tmp_path / 'trained'}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in how.items()),
        "--seed=3",
        "--save-every=0",
    )

    losses = losses_of(output)
    orders = torch.Generator().manual_seed(3)
    expected = train(model, tokenizer, orders, **how)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0]

    import transformers

    trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "trained").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def generated_by_transformers(
    model: Any, tokenizer: Any, text: str = PROMPT
) -> list[tuple[int, float]]:
    """The likeliest tokens after the text, with the logarithms of their probabilities."""
    prompt = torch.tensor([tokenizer.encode(text).ids])
    generated = model.eval().generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(
            prompt
        ),  # otherwise tokens that are the padding's are left out
        max_new_tokens=30,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = generated.sequences[0, prompt.shape[1] :].tolist()
    return [
        (token, torch.log_softmax(scores[0], -1)[token].item())
        for token, scores in zip(tokens, generated.logits, strict=True)
    ]


def assert_generates(
    expected: list[tuple[int, float]], *arguments: str, prompt: str = PROMPT
) -> None:
    output = run("Generate", *arguments, "--prompt=-", "--tokens", "--max-tokens=30", stdin=prompt)
    lines = [line.split() for line in output.splitlines()]
    assert [int(token) for token, _ in lines] == [token for token, _ in expected]
    assert [float(logarithm) for _, logarithm in lines] == pytest.approx(
        [logarithm for _, logarithm in expected], abs=1e-4
    )


@pytest.mark.full
def test_peft_loads_an_adapter_that_java_has_trained_as_peft_trains_it(tmp_path):
    import peft

    how = {"steps": 20, "batch": 2, "accumulate": 1, "block": 16, "lr": 1e-2, "warm_up": 5}
    model, tokenizer = save_model("smollm2", tmp_path / "model")
    base = generated_by_transformers(model, tokenizer)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    output = run(
        "FineTune",
        f"--model={tmp_path / 'model'}",
        f"--text={tmp_path / 'text.txt'}",
        f"--output={tmp_path / 'adapter'}",
        *(f"--{name.replace('_', '-')}={value}" for name, value in how.items()),
        "--seed=3",
        "--save-every=0",
        "--lora-rank=4",
        "--lora-alpha=8",
        "--lora-target=q_proj,v_proj",
    )

    loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    expected = generated_by_transformers(loaded, tokenizer)
    assert expected != base
    assert_generates(expected, f"--model={tmp_path / 'model'}", f"--adapter={tmp_path / 'adapter'}")

    draws = torch.Generator().manual_seed(3)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                parameter.uniform_(-bound, bound, generator=draws)
    losses = train(adapted, tokenizer, draws, **how)
    assert losses_of(output) == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama3", {"target_modules": ["q_proj", "k_proj", "down_proj"], "lora_dropout": 0.1}),
        ("qwen2", {"target_modules": "all-linear", "use_rslora": True}),
        ("smollm2", {"target_modules": r".*\.1\..*_proj"}),
    ],
)
def test_java_loads_an_adapter_of_peft(kind, options, tmp_path):
    import peft

    model, tokenizer = save_model(kind, tmp_path / "model")
    base = generated_by_transformers(model, tokenizer)
    torch.manual_seed(1)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", r=6, lora_alpha=9, **options)
    )
    with torch.no_grad():  # otherwise the adapter changes nothing
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = generated_by_transformers(adapted, tokenizer)
    assert expected != base

    arguments = (f"--model={tmp_path / 'model'}", f"--adapter={tmp_path / 'adapter'}")
    assert_generates(expected, *arguments)
    assert_generates(expected, *arguments, "--merge")


# The forms of well-known templates: ChatML with a default system prompt, Llama 3's, and one that checks the roles.
TEMPLATES = {
    "chatml": """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ["user", "system"] or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "llama3": """\
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{ raise_exception("no tools") }}{% endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
  {%- if message["role"] == "user" %}
    {%- if loop.last and system_message is defined %}
        {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
    {%- else %}
        {{- "[INST]" + message["content"] + "[/INST]" }}
    {%- endif %}
  {%- endif %}
{%- endfor %}
""",
}


@pytest.mark.full
@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates_give_the_texts_of_transformers(name, tmp_path):
    import transformers

    model, tokenizer = save_model("smollm2", tmp_path)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", chat_template=TEMPLATES[name]
    )
    fast.save_pretrained(tmp_path)
    question = '  Wie weit ist es zum "Mond"?\n'
    system = [] if name == "chatml" else [{"role": "system", "content": "Antworte kurz."}]
    text = fast.apply_chat_template(
        [*system, {"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=False,
    )
    expected = generated_by_transformers(model, tokenizer, text)

    arguments = [f"--system={system[0]['content']}"] if system else []
    assert_generates(expected, f"--model={tmp_path}", "--chat", *arguments, prompt=question)
