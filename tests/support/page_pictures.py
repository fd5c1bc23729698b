"""Pictures of the operator's page, taken and judged by its tests.

LOOP2P_PICTURES=FOLDER keeps them there, for the docs.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MOST_BYTES = 150_000
BOXES = """selectors => selectors.map((s) => {
    const box = document.querySelector(s)?.getBoundingClientRect();
    return box ? [box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY] : null;
})"""
"""Where things lie, all at one moment: rows are made anew."""
SIZES = ((1.0, 256), (1.0, 128), (0.8, 256), (0.8, 128), (0.65, 128), (0.5, 64))
"""Scale and colours of the palette: the first with which a picture is small enough."""
SHORTEN = """folders => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const {currentNode: text} = walk;
        for (const one of folders) if (text.data.includes(one)) text.data = text.data.replaceAll(one, "");
    }
}"""
TROUBLES = """() => {
    const found = [], shapes = "header, section:not(#player), #offline, #recording";
    const texts = "h2, p, button, label, th, td, kbd, figcaption, #state, #run, .large, select";
    const name = (e) => `${e.tagName.toLowerCase()}#${e.id}.${e.className} "${e.textContent.trim().slice(0, 30)}"`;
    const seen = (e) => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 0;
    const places = [...document.querySelectorAll(shapes)].filter(seen);
    for (const a of places) for (const b of places) {
        const p = a.getBoundingClientRect(), q = b.getBoundingClientRect();
        const apart = p.right <= q.left + 1 || q.right <= p.left + 1 || p.bottom <= q.top + 1 || q.bottom <= p.top + 1;
        if (a !== b && !a.contains(b) && !b.contains(a) && !apart) found.push(`${name(a)} lies over ${name(b)}`);
    }
    for (const e of document.querySelectorAll(texts)) {
        const inline = getComputedStyle(e).display === "inline";
        if (seen(e) && !inline && e.scrollWidth > e.clientWidth + 1)
            found.push(`${name(e)}: ${e.scrollWidth} px of text in ${e.clientWidth}`);
    }
    for (const e of document.querySelectorAll("#phase, #answer, #preflight li"))
        if (seen(e) && e.scrollHeight > e.clientHeight + 1) found.push(`${name(e)}: cut below`);
    const width = document.documentElement.scrollWidth;
    if (width > innerWidth) found.push(`the page is ${width} px wide, the window ${innerWidth}`);
    return found;
}"""
"""What lies over what, and text that is wider than its place."""


def picture(tab: Any, name: str, folder: Path, shows: list[str], full_page: bool = True) -> Path:
    """Take a picture of the whole page, or of the window, in which these elements are to be seen; no text cut, nothing
    over another. Paths of the folder are shown without it."""
    tab.evaluate(SHORTEN, [f"{folder}/", f"{folder.parent}/"])
    found = tab.evaluate(TROUBLES)
    assert not found, f"{name}: {found}"
    for selector in shows:
        tab.locator(selector).first.wait_for()
    path, lost = folder / f"console-{name}.png", "#offline" in shows
    while True:
        tab.locator("#offline").wait_for(state="visible" if lost else "hidden")
        boxes = tab.evaluate(BOXES, shows)
        tab.screenshot(path=path, full_page=full_page)
        if tab.locator("#offline").is_visible() == lost:  # on a busy machine it comes and goes
            break
    image = Image.open(path).convert("RGB")
    for selector, box in zip(shows, boxes, strict=True):
        assert box is not None, f"{name}: {selector} is not there to be seen"
        left, top, right, bottom = box
        assert 0 <= left < right <= image.width + 1, f"{name}: {selector} lies outside or has no size, {box}"
        assert 0 <= top < bottom <= image.height + 1, f"{name}: {selector} lies outside or has no size, {box}"
        part = image.crop((int(left), int(top), int(right), int(bottom)))
        assert np.ptp(np.asarray(part), axis=(0, 1)).max() > 40, f"{name}: {selector} is blank"
    for scale, colours in SIZES:
        small = image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.LANCZOS)
        small.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        if size <= MOST_BYTES:
            break
    assert 10_000 < size <= MOST_BYTES, f"{name}: {size} bytes, expected 10,000 to {MOST_BYTES}"
    kept = os.environ.get("LOOP2P_PICTURES")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        (Path(kept) / path.name).write_bytes(path.read_bytes())
    return path
