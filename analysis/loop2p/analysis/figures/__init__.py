"""The paper's figures, from all that was measured in the arms. What has no data is left out."""

import io
import re
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from loop2p.analysis.figures import by_day, decoders, error_signal, perturbations, power, residual
from loop2p.analysis.figures.arms_used import Arms
from loop2p.analysis.figures.style import STYLE, Plate
from loop2p.runtime.atomic import write_atomically

DPI = 150


def all_figures(arms: Arms, seed: int) -> dict[str, Plate]:
    """Name -> figure with its caption, in the order of the report; without those that have no data.

    `seed` is for the licks that are shifted and the experiments that are simulated for power.
    """
    with rc_context(STYLE):  # these figures' looks only; no backend, no global state
        drawn = {
            "learning": by_day.learning_curves(arms),
            "rates": by_day.rates_and_running(arms),
            "example": residual.example(arms),
            "network": decoders.network_decoder(arms),
            "outcome": decoders.outcome_decoders(arms),
            "courses": residual.courses(arms),
            "sign-flip": error_signal.sign_flip(arms),
            "survives": error_signal.survives(arms),
            "perturbations": perturbations.opto_and_anaesthesia(arms),
            "controls": error_signal.negative_controls(arms),
            "licking": by_day.licking_by_day(arms, seed),
            "power": power.power_figure(power.design_power(arms, seed)),
        }
    return {name: plate for name, plate in drawn.items() if plate is not None}


def save_figures(figures: dict[str, Plate], folder: Path) -> list[Path]:
    """NAME.svg, with text as text, and NAME.png of 150 dots an inch, each at once or not at all; the same bytes again
    from the same data. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plate in figures.items():
        for path, data in (
            (folder / f"{name}.svg", _saved(plate.figure, "svg")),
            (folder / f"{name}.png", _saved(plate.figure, "png")),
        ):
            write_atomically(path, data)
            written.append(path)
    return written


def svg_of(plate: Plate, name: str) -> str:
    """An <svg> element for a page; its ids begin with `name`, so that figures on one page do not take each other's."""
    text = _saved(plate.figure, "svg").decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{plate.title}" ', 1)


def _saved(figure: Figure, kind: str) -> bytes:
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    out = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()
