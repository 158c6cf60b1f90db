"""Transformers models for ``deva-theory probe``: from a folder, the cache or the hub, with random tokens or a text."""

import argparse
import os
import socket
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from deva_theory.certify.missing import MissingExtra, optional
from deva_theory.cli.errors import BadInput
from deva_theory.cli.probe_subject import Subject

__all__ = ["transformers_subject"]

_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}
_ENDINGS = {
    "ForMaskedLM": "masked-lm",
    "ForConditionalGeneration": "seq2seq-lm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
}
"""Ends of the class names in a configuration's `architectures`."""
_BATCHES, _BATCH_SIZE, _CONTEXT = 4, 4, 64
_IGNORED = -100
_MASKED = 0.15


def transformers_subject(options: argparse.Namespace) -> Subject:
    """Return the model named ``hf:NAME_OR_FOLDER`` with token batches; on data from ``--data`` it computes its own loss.

    Raises
    ------
    BadInput
        transformers is missing, the name cannot be found or reached, there are no weights, or the text is too short.
    """
    name = options.model.removeprefix("hf:")
    if not name:
        raise BadInput("hf: needs a name or a folder, as in hf:gpt2 or hf:./checkpoint")
    try:
        transformers = optional("transformers", "hf", f"probe {options.model}")
    except MissingExtra as error:
        raise BadInput(str(error)) from error
    # Its notes on unused heads and missing generation settings do not bear on a probe.
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import_module("huggingface_hub").logging.set_verbosity_error()  # five retries, each with two lines
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise BadInput(f"hf:{name} holds no config.json: name the folder that save_pretrained wrote")
    config = _loaded(transformers.AutoConfig, name)
    task = options.task or _task(config)
    model_class = getattr(transformers, _CLASSES[task])
    settings: dict[str, Any] = {"attn_implementation": "eager"}  # the only one that has second derivatives everywhere
    torch.manual_seed(options.seed)
    remarks = []
    try:
        if options.random_weights:
            model = model_class.from_config(config, **settings)
            remarks.append("random weights")
        else:
            model = _loaded(model_class, name, config=config, **settings)
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"hf:{name} cannot be loaded for the task {task}: {_first_line(error)}; choose another --task") from error
    if next(model.parameters()).dtype not in (torch.float32, torch.float64):
        # Half precision has too few digits for second derivatives.
        model = model.float()
    model.config.use_cache = False
    if options.data is not None:
        return Subject(model, None, None, remarks)
    batches, told = _token_batches(transformers, options, name, config, task)
    remarks.append(told)

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return _cross_entropy(model(**batch).logits, batch["labels"], shifted=task == "causal-lm")

    return Subject(model, loss, batches, remarks)


def _cross_entropy(logits: Tensor, labels: Tensor, *, shifted: bool) -> Tensor:
    """The models' own loss, but in their precision: transformers rounds logits to float32 first, which second derivatives feel."""
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=_IGNORED)


def _task(config: Any) -> str:
    for architecture in getattr(config, "architectures", None) or ():
        for ending, task in _ENDINGS.items():
            if architecture.endswith(ending):
                return task
    return "seq2seq-lm" if getattr(config, "is_encoder_decoder", False) else "causal-lm"


def _loaded(kind: Any, name: str, **settings: Any) -> Any:
    """Call ``from_pretrained``, on this machine first, then with the hub unless it is switched off."""
    local = Path(name).exists()
    forbidden = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    offline = local or forbidden or not _hub_exists()
    for only_here in (True,) if offline else (True, False):
        try:
            return kind.from_pretrained(name, local_files_only=only_here, **settings)
        except OSError as error:
            reason = error
    if local:
        if "config" in settings:
            raise BadInput(f"hf:{name} holds no weights that can be read: add --random-weights for its initialisation") from reason
        raise BadInput(f"hf:{name} cannot be read: {_first_line(reason)}") from reason
    raise BadInput(
        f"hf:{name} is no folder and not in the local cache, and "
        + (
            "HF_HUB_OFFLINE forbids to fetch it" if forbidden
            else "the hub cannot be reached" if offline
            else f"the hub did not give it ({_first_line(reason)})"
        )
        + ": name a local folder, or download it first"
    ) from reason


def _hub_exists() -> bool:
    """Return whether the hub's name can be looked up; without a network the client would retry for half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy looks names up
    host = urlsplit(import_module("huggingface_hub.constants").ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _token_batches(
    transformers: Any, options: argparse.Namespace, name: str, config: Any, task: str
) -> tuple[list[dict[str, Tensor]], str]:
    """Return batches of equally long examples with labels for the task, and what they are."""
    vocabulary = int(config.get_text_config().vocab_size)
    longest = getattr(config, "max_position_embeddings", None) or _CONTEXT
    context = options.context or min(_CONTEXT, longest)
    if context > longest:
        raise BadInput(f"--context {context} is more than the model takes: at most {longest}")
    rows, count = options.batch_size or _BATCH_SIZE, options.max_batches or _BATCHES
    generator = torch.Generator().manual_seed(options.seed)
    if options.text is None:
        tokens = torch.randint(vocabulary, (count * rows, context), generator=generator)
        told = f"{count} batches of {rows} × {context} random tokens"
    else:
        stream, reading = _read(transformers, options.text, name, vocabulary)
        found = len(stream) // context
        if found < rows:
            raise BadInput(
                f"{options.text.name} has {len(stream)} tokens; one batch takes {rows * context}: lower --context or --batch-size"
            )
        count = min(count, found // rows)
        # Windows from all over the text.
        chosen = torch.randperm(found, generator=generator)[: count * rows].sort().values
        tokens = stream[: found * context].view(found, context)[chosen]
        told = f"{count} batches of {rows} × {context} tokens of {options.text.name}, {reading}"
    return [_labelled(part, task, config, vocabulary, generator) for part in tokens.split(rows)], told


def _read(transformers: Any, path: Path, name: str, vocabulary: int) -> tuple[Tensor, str]:
    """Return the text's tokens: by the model's tokenizer, or its bytes if there is none."""
    raw = path.read_bytes()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=True)
        ids = tokenizer(raw.decode("utf-8", errors="replace"), add_special_tokens=False, verbose=False)["input_ids"]
        if ids and max(ids) < vocabulary:
            return torch.tensor(ids), "by the model's tokenizer"
    except Exception:  # a folder without (or with an unusable) tokenizer fails in many ways
        pass
    if vocabulary < 256:
        raise BadInput(f"hf:{name} has no tokenizer, and bytes do not fit its vocabulary of {vocabulary}: drop --text, or give --data")
    return torch.tensor(list(raw)), "as bytes, for want of a tokenizer"


def _labelled(tokens: Tensor, task: str, config: Any, vocabulary: int, generator: torch.Generator) -> dict[str, Tensor]:
    if task == "masked-lm":
        # The same number in each row: the mean over predictions is the mean over examples.
        masked = torch.rand(tokens.shape, generator=generator).argsort(1) < max(1, round(_MASKED * tokens.shape[1]))
        inputs = torch.where(masked, torch.randint(vocabulary, tokens.shape, generator=generator), tokens)
        return {"input_ids": inputs, "labels": torch.where(masked, tokens, _IGNORED)}
    if task == "sequence-classification":
        return {"input_ids": tokens, "labels": torch.randint(config.num_labels, (len(tokens),), generator=generator)}
    if task == "token-classification":
        return {"input_ids": tokens, "labels": torch.randint(config.num_labels, tokens.shape, generator=generator)}
    # Causal models shift the labels themselves; an encoder-decoder learns to copy.
    return {"input_ids": tokens, "labels": tokens.clone()}
