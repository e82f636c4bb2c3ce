"""What the kit overrides, calls or sets inside libraries still exists there, as it is used.

A library's next version may rename a private method: an override of it would never be called, an
attribute that is set would be read by nobody, and no error would say so.

    python -m tests.gates.overrides

tells of every place, and fails when there is one.
"""

import ast
import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Of libraries, by path: the parameters that we count on, in their order.
FUNCTIONS = {
    "transformers.Trainer._get_train_sampler": "self train_dataset",
    "transformers.Trainer._save_checkpoint": "self model trial",
    "transformers.Trainer._load_from_checkpoint": "self resume_from_checkpoint",
    "transformers.Trainer._prepare_inputs": "self inputs",
    "transformers.Trainer.training_step": "self model inputs num_items_in_batch",
    "transformers.Trainer.compute_loss_context_manager": "self",
    "transformers.trainer_pt_utils.get_length_grouped_indices": "lengths batch_size",
    "transformers.PreTrainedModel.get_decoder": "self",
    "transformers.conversion_mapping.get_model_conversion_mapping": "model",
    "papermill.clientwrap.PapermillNotebookClient.execute": "self",
    "papermill.engines.NotebookExecutionManager.cell_exception": "self cell cell_index",
    "papermill.execute.remove_error_markers": "nb",
    "lm_eval.evaluator.get_git_commit_hash": "",
    "lm_eval.evaluator.add_env_info": "storage",
}
# Private names and undocumented attributes in the kit's code, and what must have them.
ATTRIBUTES = {
    "module": "_forward_hooks _forward_pre_hooks _backward_hooks",
    "model": "_is_stateful",
    "loaded": "_weight_conversions",
    "config": "_attn_implementation _name_or_path hidden_act attention_dropout",
    "arguments": "_n_gpu train_sampling_strategy",
    "lora": "active_adapters disable_adapters lora_A lora_B lora_bias lora_dropout lora_variant"
    " merged scaling base_layer",
    "linear4bit": "support_avx512bf16_for_cpu compute_dtype",
    "quant_state": "absmax blocksize code dtype nested offset quant_type shape state2",
    "attention": "config head_dim layer_idx scaling",
    "norm": "variance_epsilon weight",
    "aten": "silu_backward",
}
# What libraries find by a rule of theirs, and so in no class of theirs; and Python's own.
BY_RULE = {"_kernel_spec_manager_default", "_repr_mimebundle_", "_Environ"}


def resolved(path: str) -> Any:
    """What a dotted path names; None where there is no such thing."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part, None)
        return thing
    return None


def function_problems(functions: dict[str, str] = FUNCTIONS) -> list[str]:
    """Functions of libraries that are gone, or take other parameters."""
    problems = []
    for path, expected in functions.items():
        function = resolved(path)
        if function is None:
            problems.append(f"{path} is gone")
            continue
        names = list(inspect.signature(function).parameters)
        if names[: len(expected.split())] != expected.split():
            problems.append(f"{path} takes {names}, not {expected.split()}")
    return problems


def attribute_problems(attributes: dict[str, str] = ATTRIBUTES) -> list[str]:
    """Attributes that the libraries' objects no longer have."""
    objects = _objects()
    return [
        f"{kind}: no attribute {name}"
        for kind, names in attributes.items()
        for name in names.split()
        if not hasattr(objects[kind], name)
    ]


def _objects() -> dict[str, Any]:
    import torch
    from bitsandbytes.nn import Linear4bit
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    layer = model.model.layers[0]
    linear = Linear4bit(64, 64, compress_statistics=True, quant_type="nf4").to("cpu")
    adapted = get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"])
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = LlamaForCausalLM.from_pretrained(folder)
    return {
        "module": torch.nn.Linear(2, 2),
        "model": model,
        "loaded": loaded,
        "config": config,
        "arguments": TrainingArguments(use_cpu=True),
        "lora": adapted.base_model.model[0],
        "linear4bit": linear,
        "quant_state": linear.weight.quant_state,
        "attention": layer.self_attn,
        "norm": layer.input_layernorm,
        "aten": torch.ops.aten,
    }


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The private names of others that a file reads, sets or asks for: line and name.

    Of `self` and `cls` they are our own where this file says so somewhere.

    Args:
        tree: of one file.
    """
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target)]
            own |= {p.attr for p in parts if isinstance(p, ast.Attribute) and _is_self(p.value)}
            own |= {part.id for part in parts if isinstance(part, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            called_on_super = isinstance(node.value, ast.Call) and (
                ast.unparse(node.value.func) == "super"
            )
            if _is_private(node.attr) and (node.attr not in own or called_on_super):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _is_private(str(name.value)):
                yield node.lineno, str(name.value)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def unlisted(root: Path = ROOT / "qlora_kit") -> list[str]:
    """Private names of libraries in the kit's code that no table here holds."""
    listed = {path.rpartition(".")[2] for path in FUNCTIONS} | BY_RULE
    listed |= {name for names in ATTRIBUTES.values() for name in names.split()}
    return [
        f"{path}:{line}: {name} is private to a library and in no table of tests/gates/overrides.py"
        for path in sorted(root.rglob("*.py"))
        for line, name in private_names(ast.parse(path.read_text(encoding="utf-8")))
        if name not in listed
    ]


def override_problems(module: Any) -> list[str]:
    """Methods of a module's classes that a library's class has with other parameters.

    Ours may take more, with defaults, and may hand on what it does not name. What torch declares
    as `*args` says nothing.

    Args:
        module: imported.
    """
    problems = []
    for cls in vars(module).values():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__:
            continue
        for name, method in vars(cls).items():
            base = next((b for b in cls.__mro__[1:] if name in vars(b) and _is_librarys(b)), None)
            if base is None or name.startswith("__") or not _is_routine(base, name):
                if _overrides_nothing(cls, name, method):
                    problems.append(f"{cls.__name__}.{name} overrides nothing any more")
                continue
            theirs = inspect.signature(getattr(base, name)).parameters
            ours = inspect.signature(getattr(cls, name)).parameters
            if not _accepts(ours, theirs):
                problems.append(
                    f"{cls.__name__}.{name} takes {list(ours)}, {base.__name__}'s {list(theirs)}"
                )
    return problems


def _is_routine(cls: type, name: str) -> bool:
    routine = getattr(cls, name)
    return inspect.isfunction(routine) or inspect.ismethod(routine)


def _is_librarys(cls: type) -> bool:
    top = cls.__module__.split(".")[0]
    return top != "qlora_kit" and top not in sys.stdlib_module_names


def _overrides_nothing(cls: type, name: str, method: Any) -> bool:
    """Whether a name that a table knows from a library is not in any base any more."""
    known = {path.rpartition(".")[2] for path in FUNCTIONS}
    library = any(_is_librarys(base) for base in cls.__mro__[1:])
    return library and callable(method) and _is_private(name) and name in known


def _accepts(ours: Any, theirs: Any) -> bool:
    """Whether whoever calls theirs by place or by name can call ours."""
    kinds = {each.kind for each in ours.values()}
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    fixed = [name for name, each in theirs.items() if each.kind not in loose]
    if loose[1] in kinds:  # what has a name may be handed on
        fixed = [name for name in fixed if name in ours or theirs[name].default is inspect._empty]
    return loose[0] in kinds or list(ours)[: len(fixed)] == fixed


def modules_with_library_bases(root: Path = ROOT / "qlora_kit") -> list[str]:
    """The modules in which a class may have a library's class as its base."""
    return [
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for path in sorted(root.rglob("*.py"))
        if any(
            isinstance(node, ast.ClassDef) and node.bases
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    ]


def problems() -> list[str]:
    """All of them."""
    modules = map(importlib.import_module, modules_with_library_bases())
    overrides = [problem for module in modules for problem in override_problems(module)]
    return [*function_problems(), *attribute_problems(), *unlisted(), *overrides]


if __name__ == "__main__":
    places = problems()
    print("\n".join(places))
    sys.exit(bool(places))
