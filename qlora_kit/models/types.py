"""What a type checker sees of a model and of its tokenizer."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Texts, since nothing of transformers is imported before it is needed.
Model: TypeAlias = "PreTrainedModel | PeftModel"
Tokenizer: TypeAlias = "PreTrainedTokenizerBase"
