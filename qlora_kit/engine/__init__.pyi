from .adapted_linear import dense_weight as dense_weight
from .fast import fast_generation as fast_generation
from .fast import fast_training as fast_training
from .loss import HEAD_ROWS as HEAD_ROWS
from .loss import completion_loss as completion_loss
from .loss import logits_where as logits_where
from .parallel import accumulate as accumulate
from .parallel import workers as workers
