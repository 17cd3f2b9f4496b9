"""Pure tensor functions: the mathematics of Fairlead, without state, input or output, or configuration.

Letters in shapes: B rows, T response tokens, V vocabulary. Log-probabilities, entropies and KL are in nats. A mask is
non-zero where a position counts; masked positions of outputs are exactly 0, and NaN under a mask goes nowhere.
"""

from fairlead.functional.advantages import (
    anchor_score,
    broadcast_to_tokens,
    discounted_returns,
    gae,
    group_mean,
    group_relative,
    leave_one_out,
    remax,
)
from fairlead.functional.filtration import FILTERS, filter_weights, rank_weights, weighted_r_squared
from fairlead.functional.kl import adaptive_coefficient, exact_kl, kl_estimate, kl_loss
from fairlead.functional.logprobs import entropy, token_logprobs, token_logprobs_and_entropy
from fairlead.functional.macro import (
    fixed_segments,
    length_segments,
    macro_gae,
    parse_segments,
    perplexity_segments,
    segment_sum,
    spread_segments,
)
from fairlead.functional.masks import (
    aggregation_weights,
    last_token_index,
    mask_out,
    masked_mean,
    masked_sum,
    masked_variance,
    place_at_last_token,
    sequence_reward,
    whiten,
)
from fairlead.functional.monitoring import goodness_of_fit, repeated_ngrams
from fairlead.functional.policy_losses import (
    cispo,
    clip_fraction,
    clipped_tokens,
    gspo,
    importance_ratio,
    mismatch_weight,
    ppo_clip,
    reinforce,
    sequence_ratio,
    truncated_importance_weight,
    value_loss,
)
from fairlead.functional.preference_losses import bradley_terry, dpo
from fairlead.functional.random import mix_seeds, uniform
from fairlead.functional.shaping import overlong_penalty
from fairlead.functional.statistics import (
    area_under_curve,
    bootstrap_interval,
    chi_square,
    expected_calibration_error,
    explained_variance,
    pearson,
    reliability_curve,
    spearman,
    total_variation,
    wilson_interval,
)

__all__ = [
    "FILTERS",
    "adaptive_coefficient",
    "aggregation_weights",
    "anchor_score",
    "area_under_curve",
    "bootstrap_interval",
    "bradley_terry",
    "broadcast_to_tokens",
    "chi_square",
    "cispo",
    "clip_fraction",
    "clipped_tokens",
    "discounted_returns",
    "dpo",
    "entropy",
    "exact_kl",
    "expected_calibration_error",
    "explained_variance",
    "filter_weights",
    "fixed_segments",
    "gae",
    "goodness_of_fit",
    "group_mean",
    "group_relative",
    "gspo",
    "importance_ratio",
    "kl_estimate",
    "kl_loss",
    "last_token_index",
    "leave_one_out",
    "length_segments",
    "macro_gae",
    "mask_out",
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "mismatch_weight",
    "mix_seeds",
    "overlong_penalty",
    "parse_segments",
    "pearson",
    "perplexity_segments",
    "place_at_last_token",
    "ppo_clip",
    "rank_weights",
    "reinforce",
    "reliability_curve",
    "remax",
    "repeated_ngrams",
    "segment_sum",
    "sequence_ratio",
    "sequence_reward",
    "spearman",
    "spread_segments",
    "token_logprobs",
    "token_logprobs_and_entropy",
    "total_variation",
    "truncated_importance_weight",
    "uniform",
    "value_loss",
    "weighted_r_squared",
    "whiten",
    "wilson_interval",
]
