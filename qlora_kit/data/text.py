"""Words in any script, also in those that write no spaces."""

import re

# Chinese characters and kana: nothing stands between their words, so each counts as one.
UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def spaced_words(text: str) -> list[str]:
    """What spaces separate; a Chinese character or a kana is a word of its own.

    Args:
        text: in any script.
    """
    return UNSPACED.sub(r" \g<0> ", text).split()
