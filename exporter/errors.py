"""The base of every error that is a sentence for a person, and nothing else: each package has kinds of its own."""


class ExporterError(Exception):
    """Something could not be done: the message is one sentence, and `remedy` says what to do where that is known."""

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.sentence}: {self.remedy}" if self.remedy else self.sentence
