"""The published protocol with everything as short as it may be: 100 s a day."""

SHORT_DAY = """
[baseline]
duration_s = 40
[calibration]
window_s = 8
[trial]
loop_s = 8
[closed_loop]
duration_s = 60
"""
