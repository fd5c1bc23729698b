"""`loop2p screen`: see what the stimulus screen does with a picture, and measure its luminance."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from loop2p.cli.main import RigPath, fail, open_rig, out

if TYPE_CHECKING:
    from loop2p.stimulus import Renderer


def register(app: typer.Typer) -> None:
    app.command()(screen)


def screen(
    rig: RigPath,
    png: Annotated[Path | None, typer.Option(help="write the test picture here; no screen is needed")] = None,
    levels: Annotated[int, typer.Option(help="measure luminance at so many grey levels, 0: show the test picture")] = 0,
) -> None:
    """Show the test picture on the rig's stimulus screen (which way is up? which way do angles turn?), or measure it.

    With --levels 9 nine greys are shown in turn; type what the photometer says of each; out comes the rig file's line.
    """
    from loop2p.protocol import FileError
    from loop2p.stimulus.core import describe_gamma
    from loop2p.stimulus.service import StimulusOptions, describe_grating, open_renderer
    from loop2p.stimulus.testpicture import screen_test

    rig_file = open_rig(rig)
    try:
        options = rig_file.options("stimulus", StimulusOptions)
    except FileError as error:
        fail(str(error))
    if png is not None:
        from PIL import Image

        Image.fromarray(screen_test(options.width_px, options.height_px, options)).save(png)
        out.print(f"{png}: {options.width_px} x {options.height_px}", soft_wrap=True)
        return
    if levels and levels < 3:
        fail(f"--levels: found {levels}, expected 3 or more")
    try:
        renderer, failed = open_renderer(options)
    except OSError as error:
        fail(f"{rig}: services.stimulus: {error}")
    try:
        paced = "the monitor" if renderer.vsync else "a clock"
        out.print(f"{renderer.name}, {renderer.refresh_hz:.2f} Hz, paced by {paced}", markup=False, soft_wrap=True)
        out.print(f"{describe_grating(options)}; luminance {describe_gamma(options)}", soft_wrap=True)
        if not renderer.is_display:
            why = "; ".join(failed) or "it has no refresh rate: a virtual screen"
            out.print(f"NO DISPLAY: nobody sees this. {why}", style="bold yellow", markup=False, soft_wrap=True)
        if levels:
            measure(renderer, levels)
        else:
            renderer.put(screen_test(*renderer.size, options))
            waiting(renderer, partial(input, "Enter to end "))
    finally:
        renderer.close()


def measure(renderer: "Renderer", levels: int) -> None:
    """Show greys from black to white, ask for the luminance of each, print the line for the rig file."""
    from loop2p.stimulus.gamma import measured_table

    points: list[tuple[float, float]] = []
    width, height = renderer.size
    for level in np.linspace(0, 255, levels).round().astype(int):
        renderer.put(np.full((height, width), level, np.uint8))
        said = waiting(renderer, partial(input, f"luminance at level {level} of 255 (cd/m2): "))
        try:
            points.append((float(level), float(said)))
        except ValueError:
            fail(f"level {level}: found {said!r}, expected a number such as 12.5")
    try:
        measured_table(points)
    except ValueError as error:
        fail(str(error))
    out.print("for [services.stimulus.options] in the rig file:", markup=False)
    print(f"gamma_points = [{', '.join(f'[{level:g}, {luminance:g}]' for level, luminance in points)}]")


def waiting(renderer: "Renderer", ask: Callable[[], str]) -> str:
    """Ask on the terminal, and keep the window alive meanwhile. Leaves where the input ends or the screen is gone."""
    answers: list[str] = []

    def wait() -> None:
        try:
            answers.append(ask())
        except EOFError:
            answers.append("")

    asking = threading.Thread(target=wait, daemon=True)
    asking.start()
    while asking.is_alive():
        try:
            renderer.poll()
        except OSError as error:
            fail(str(error))
        asking.join(0.05)
    return answers[0]
