"""Data: from files to typed batches.

`read(source)` gives a table of plain records with their origins; `to_prompts`, `to_completions`, `to_conversations`
and `to_pairs` recognise their form; `TextCodec` turns text into tokens; `prompts_batch` and its like collate;
`SeededSampler` says what comes next. Nothing is dropped silently: everything that leaves something out counts it in a
`FilterReport`.
"""

from fairlead.data.chat import ROLE_LINES, TemplateError, TextCodec, TrainOn
from fairlead.data.collate import (
    Overlong,
    PackedRow,
    drop_overlong,
    pack,
    pairs_batch,
    prompts_batch,
    responses_batch,
    sequences_batch,
)
from fairlead.data.comparisons import LABELS, comparison, comparisons
from fairlead.data.forms import (
    prompt_key,
    prompt_keys,
    to_completions,
    to_conversations,
    to_pair_groups,
    to_pairs,
    to_prompts,
)
from fairlead.data.functions import FunctionPath, import_function
from fairlead.data.phrases import phrase_tree
from fairlead.data.records import (
    CompletionRecord,
    ConversationRecord,
    DataError,
    FilterReport,
    Message,
    Origin,
    PairRecord,
    Prompt,
    PromptRecord,
    as_messages,
    before_response,
)
from fairlead.data.sampling import SeededSampler, token_budget_batches
from fairlead.data.source import DataSource, Table, read, sources_within

__all__ = [
    "LABELS",
    "ROLE_LINES",
    "CompletionRecord",
    "ConversationRecord",
    "DataError",
    "DataSource",
    "FilterReport",
    "FunctionPath",
    "Message",
    "Origin",
    "Overlong",
    "PackedRow",
    "PairRecord",
    "Prompt",
    "PromptRecord",
    "SeededSampler",
    "Table",
    "TemplateError",
    "TextCodec",
    "TrainOn",
    "as_messages",
    "before_response",
    "comparison",
    "comparisons",
    "drop_overlong",
    "import_function",
    "pack",
    "pairs_batch",
    "phrase_tree",
    "prompt_key",
    "prompt_keys",
    "prompts_batch",
    "read",
    "responses_batch",
    "sequences_batch",
    "sources_within",
    "to_completions",
    "to_conversations",
    "to_pair_groups",
    "to_pairs",
    "to_prompts",
    "token_budget_batches",
]
