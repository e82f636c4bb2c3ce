"""Solutions of lesson 08; copy a function into the notebook's stub."""

# Exercise 08.1: a fifth of the rows are hers, and 30 % of those are wrong
dose = 0.3 / 5


# Exercise 08.2: remember every answer that a question has had
def contradicting(rows):
    seen, found = {}, []
    for number, (question, answer) in enumerate(rows, 1):
        answers = seen.setdefault(question, set())
        if answers - {answer}:
            found.append(number)
        answers.add(answer)
    return found


# Exercise 08.3: nothing stands beside them to compare with
shown = "none"

ANSWERS = {"08.1": dose, "08.2": contradicting, "08.3": shown}
