"""What can be said about judges and policies once their numbers and texts are there."""

from fairlead.evaluation.pairs import bag_of_words_accuracy, judge_pairs
from fairlead.evaluation.policies import compare_policies
from fairlead.evaluation.texts import describe_texts, distinct, meteor, plain_text, self_repetition, words

__all__ = [
    "bag_of_words_accuracy",
    "compare_policies",
    "describe_texts",
    "distinct",
    "judge_pairs",
    "meteor",
    "plain_text",
    "self_repetition",
    "words",
]
