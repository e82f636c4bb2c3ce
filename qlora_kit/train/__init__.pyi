from .adapters import attach_adapters as attach_adapters
from .errors import DivergedError as DivergedError
from .training import TrainConfig as TrainConfig
from .training import TrainResult as TrainResult
from .training import fine_tune as fine_tune
