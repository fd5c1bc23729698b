"""Offline analysis: from recordings of sessions to the paper's figures. The steps, in their order:

    from loop2p.analysis import read_any, contrast, rows_of, Arm

Pure functions of arrays, but for those that read files. What each takes and gives stands in its docstring.
"""

from loop2p.analysis.acceptance import rows_of as rows_of
from loop2p.analysis.arm import Arm as Arm
from loop2p.analysis.arm import arms_in as arms_in
from loop2p.analysis.behaviour import licking as licking
from loop2p.analysis.behaviour import running_by_epoch as running_by_epoch
from loop2p.analysis.classify import leave_one_out as leave_one_out
from loop2p.analysis.classify import shuffled as shuffled
from loop2p.analysis.contrast import contrast as contrast
from loop2p.analysis.detect import find_events as find_events
from loop2p.analysis.detect import find_events_dff as find_events_dff
from loop2p.analysis.detected import Detected as Detected
from loop2p.analysis.detected import read_any as read_any
from loop2p.analysis.epochs import error_epochs as error_epochs
from loop2p.analysis.fluorescence import dff as dff
from loop2p.analysis.fluorescence import subtract_neuropil as subtract_neuropil
from loop2p.analysis.learning import accuracy as accuracy
from loop2p.analysis.learning import rates_hz as rates_hz
from loop2p.analysis.learning import rewards_per_min as rewards_per_min
from loop2p.analysis.measure import MeasureParams as MeasureParams
from loop2p.analysis.measure import measure as measure
from loop2p.analysis.measure import read_measured as read_measured
from loop2p.analysis.neighbours import residuals_less_neighbours as residuals_less_neighbours
from loop2p.analysis.network import network as network
from loop2p.analysis.neurons import like_decoder as like_decoder
from loop2p.analysis.neurons import rate_matched as rate_matched
from loop2p.analysis.neurons import soma_matched as soma_matched
from loop2p.analysis.outcome import outcomes as outcomes
from loop2p.analysis.pairs import pair as pair
from loop2p.analysis.partial import partial_regression as partial_regression
from loop2p.analysis.perturbation import perturbed as perturbed
from loop2p.analysis.residuals import coincident as coincident
from loop2p.analysis.residuals import fit_lines as fit_lines
from loop2p.analysis.residuals import loop_residuals as loop_residuals
from loop2p.analysis.residuals import z_residuals as z_residuals
from loop2p.analysis.results import results_of as results_of
from loop2p.analysis.results import write_results as write_results
from loop2p.analysis.sessions import SessionData as SessionData
from loop2p.analysis.sessions import SessionError as SessionError
from loop2p.analysis.sessions import read_session as read_session
from loop2p.analysis.shape import fit_shapes as fit_shapes
from loop2p.analysis.spikes import Oasis as Oasis
from loop2p.analysis.spikes import by_name as by_name
from loop2p.analysis.statistics import Test as Test
from loop2p.analysis.statistics import adjusted as adjusted
from loop2p.analysis.statistics import mixed_model as mixed_model
from loop2p.analysis.statistics import power_curve as power_curve
