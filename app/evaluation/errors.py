"""What can be wrong with an evaluation, in words that whoever started it can act on."""


class EvaluationError(Exception):
    """It cannot be run as asked."""


class DataError(EvaluationError):
    """The images or their labels cannot be used."""


class ResultsError(EvaluationError):
    """A folder of results cannot be used, or does not belong to this evaluation."""
