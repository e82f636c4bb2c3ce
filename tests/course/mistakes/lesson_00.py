"""Typical mistakes of lesson 00: counting bytes, and a conversation."""


def messages(*roles):
    return [{"role": role, "content": "words"} for role in roles]


MISTAKES = {
    "00.1": [(7 * 4.127, "8 bits"), (3.5, "4.127"), (14, "16 bits"), (3.363, "GiB"), (1, "divide")],
    "00.2": [
        ("Hello", "list of dicts"),
        (messages("user"), "system, then user"),
        (messages("system", "user", "assistant"), "assistant has spoken"),
        (messages("system", "human"), "human"),
        ([{"role": "user"}], "two keys"),
    ],
}
