"""Solutions of lesson 00; copy a line into the notebook's stub."""

# Exercise 00.1: bits to bytes, bytes to gigabytes
gigabytes = 7e9 * 4.127 / 8 / 1e9

# Exercise 00.2: a system message, then the user's question
my_messages = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "Why is the sky blue?"},
]

ANSWERS = {"00.1": gigabytes, "00.2": my_messages}
