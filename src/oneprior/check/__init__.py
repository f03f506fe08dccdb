"""Does this schedule, denoiser, sampler or operator behave? Each check measures, and says what is wrong.

With a law whose answer is known (`oneprior.exact`) the answer itself is compared: exact mode. With a few dozen samples
of data only, a denoiser is held against what any denoiser must do, and what it was told of its network is put on trial.
"""

from oneprior.check.denoiser import check_denoiser
from oneprior.check.others import check_operator, check_sampler, check_schedule
from oneprior.check.table import Checked, Row, _verdict

__all__ = ["Checked", "Row", "_verdict", "check_denoiser", "check_operator", "check_sampler", "check_schedule"]
