"""The pictures as an OpenGL 3.3 fragment shader; the same formula as `core.picture`, in the same words."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop2p.protocol import Show
from loop2p.stimulus.core import MEAN, Look, angle_deg, contrast, gamma_table
from loop2p.stimulus.gamma import LEVELS

GL_DITHER = 0x0BD0

VERTEX = """
#version 330 core
void main() {  // one triangle that covers the screen
    gl_Position = vec4(4.0 * float(gl_VertexID & 1) - 1.0, 4.0 * float(gl_VertexID >> 1) - 1.0, 0.0, 1.0);
}
"""

FRAGMENT = """
uniform vec2 size_px;
uniform float patch_px;
uniform float patch_level;   // 0 or 1
uniform float mean;
uniform float contrast;
uniform float sigma_px;
uniform vec2 wave;           // radians a pixel, x right, y up
uniform float phase;         // radians that the grating has drifted by
uniform sampler2D gamma;     // (256, 1) drive levels
out vec4 colour;

void main() {
    if (gl_FragCoord.x >= size_px.x - patch_px && gl_FragCoord.y < patch_px) {
        colour = vec4(vec3(patch_level), 1.0);
        return;
    }
    vec2 p = gl_FragCoord.xy - 0.5 * size_px;   // pixel centres lie at +0.5; y points up
    float window = exp(-dot(p, p) / (2.0 * sigma_px * sigma_px));
    float luminance = clamp(mean + 0.5 * contrast * window * cos(dot(wave, p) - phase), 0.0, 1.0);
    float drive = luminance;
#ifdef CORRECTED
    float entry = min(floor(luminance * 255.0), 254.0);
    float low = texelFetch(gamma, ivec2(int(entry), 0), 0).r;
    float high = texelFetch(gamma, ivec2(int(entry) + 1, 0), 0).r;
    drive = mix(low, high, luminance * 255.0 - entry);
#endif
    colour = vec4(vec3(floor(drive * 255.0 + 0.5) / 255.0), 1.0);
}
"""


class GratingShader:
    """Draws a Show into whatever framebuffer is bound. Call with the context current."""

    def __init__(self, context: Any, width: int, height: int, look: Look) -> None:
        self.context, self.width, self.look = context, width, look
        context.disable_direct(GL_DITHER)  # dithering would blur the exact levels
        table = gamma_table(look)
        corrected = not np.array_equal(table, np.linspace(0, 1, LEVELS))
        head = "#version 330 core\n" + ("#define CORRECTED\n" if corrected else "")
        self._program = context.program(vertex_shader=VERTEX, fragment_shader=head + FRAGMENT)
        self._triangle = context.vertex_array(self._program, [])
        self._gamma = context.texture((LEVELS, 1), 1, table.astype("f4").tobytes(), dtype="f4")
        if corrected:  # else the look-up is left out: it takes a third of the time where a processor does the drawing
            self._set(gamma=0)
        self._set(size_px=(width, height), patch_px=look.patch_px, sigma_px=look.sigma_widths * width)

    def render(self, show: Show, patch: bool, cycles: float = 0.0) -> None:
        """`cycles`: how far a grating has drifted. Raises ValueError for a grating without a finite angle."""
        angle = math.radians(angle_deg(show))
        k = 2 * math.pi * self.look.cycles_per_width / self.width
        self._set(
            patch_level=1.0 if patch else 0.0,
            mean=MEAN[show.what],
            contrast=contrast(show, self.look),
            wave=(k * math.cos(angle), k * math.sin(angle)),
            phase=2 * math.pi * (cycles % 1.0),
        )
        self._gamma.use(0)
        self._triangle.render(self.context.TRIANGLES, vertices=3)

    def release(self) -> None:
        for item in (self._triangle, self._program, self._gamma):
            item.release()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            self._program[name].value = value


IMAGE = """
#version 330 core
uniform sampler2D image;     // one texel a pixel, row 0 on top
out vec4 colour;

void main() {
    ivec2 size = textureSize(image, 0);
    float level = texelFetch(image, ivec2(int(gl_FragCoord.x), size.y - 1 - int(gl_FragCoord.y)), 0).r;
    colour = vec4(vec3(level), 1.0);
}
"""


def render_image(context: Any, image: NDArray[np.uint8]) -> None:
    """Draw an image, (height, width) drive levels, pixel by pixel into the framebuffer that is bound."""
    height, width = image.shape
    texture = context.texture((width, height), 1, np.ascontiguousarray(image).tobytes(), alignment=1)
    program = context.program(vertex_shader=VERTEX, fragment_shader=IMAGE)
    triangle = context.vertex_array(program, [])
    texture.use(0)
    triangle.render(context.TRIANGLES, vertices=3)
    for item in (triangle, program, texture):
        item.release()


def read_red(framebuffer: Any) -> NDArray[np.uint8]:
    """(height, width) the red channel of a framebuffer, row 0 on top (OpenGL counts rows upwards)."""
    width, height = framebuffer.size
    data = framebuffer.read(components=4, alignment=1)
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)[::-1, :, 0].copy()
