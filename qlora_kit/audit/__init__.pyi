from .findings import KINDS as KINDS
from .pipeline import audit as audit
from .pipeline import check_copy as check_copy
from .pipeline import check_output as check_output
from .pipeline import clean as clean
from .report import save_figure as save_figure
from .report import show_audit as show_audit
from .report import show_cleaned as show_cleaned
