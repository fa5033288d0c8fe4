"""The base class of errors whose message is a sentence for the user; each package derives its own."""

OUT_OF_MEMORY = "the process was refused memory: raise its limit (ulimit -v, or the container's)"


class ExporterError(Exception):
    """A failure: the message is one sentence, `remedy` what to do about it, empty where that is not known."""

    def __init__(self, sentence: str, remedy: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.sentence}: {self.remedy}" if self.remedy else self.sentence
