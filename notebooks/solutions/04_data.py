"""Solutions of lesson 04; copy a function into the notebook's stub."""


# Exercise 04.1: the token where the loss looks, -100 elsewhere; no shift
def labels_of(input_ids, is_answer):
    return [token if inside else -100 for token, inside in zip(input_ids, is_answer, strict=True)]


# Exercise 04.2: every row is as wide as the longest
def share_of_padding(lengths):
    return 1 - sum(lengths) / (len(lengths) * max(lengths))


# Exercise 04.3: the document decides, not the row
def split(rows, held):
    train = [row for row in rows if row["document"] not in held]
    test = [row for row in rows if row["document"] in held]
    return train, test


ANSWERS = {"04.1": labels_of, "04.2": share_of_padding, "04.3": split}
