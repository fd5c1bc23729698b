"""The published protocol with everything short."""


def day_task(baseline_s: float, closed_loop_s: float) -> str:
    """A task file: calibration windows and trials of 8 s."""
    return f"""
[baseline]
duration_s = {baseline_s}
[calibration]
window_s = 8
[trial]
loop_s = 8
[closed_loop]
duration_s = {closed_loop_s}
"""


SHORT_DAY = day_task(40, 60)
"""As short as it may be."""
